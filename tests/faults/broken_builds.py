"""Builds with an injected bug. The rig has to detect each of them.

Each patches one part of `sidegate` in the process of an instance before it serves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from sidegate.core.change_log import ChangedSession
from sidegate.core.digest import Digest
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import Fill, RoundStart
from sidegate.core.seal import Seal
from sidegate.core.session import Session, SessionRecord
from sidegate.core.token import Token
from sidegate.core.verdict import Allow, Answer, Deny, Unavailable, Verdict
from sidegate.services.database_restore import DatabaseRestore
from sidegate.services.idleness import Idleness
from sidegate.services.rotation import Rotation
from sidegate.services.sessions import Issued
from sidegate.services.validator import Validator
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.codec import HEADER_SIZE, decode
from sidegate.stores.memory import MemoryStore
from sidegate.stores.postgres import changes as postgres_changes
from sidegate.stores.redis.sealed_servers import RedisSealedServer
from sidegate.stores.redis.store import RedisStore
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.messages import Response
from tests.support.replace import replace


@dataclass(frozen=True, slots=True)
class Build:
    """`fault` is the number of the fault that exposes the bug, as violations of `invariants`.

    `episode` is the one that does it, if it has several.
    """

    inject: Callable[[], None]
    fault: int
    invariants: frozenset[str]
    episode: str | None = None


def _ignore_tombstones() -> None:
    """Caches do not store tombstones."""
    put_entry, fill_many = MemoryStore.put_entry, RedisStore.fill_many
    restrict_many, apply = RedisStore.restrict_many, RedisSealedServer.apply

    def put_unless_revoked(self: MemoryStore, session: Session, **how: Any) -> MemoryEntry:
        revoked = session.revoked_at is not None
        return MemoryEntry(session, 0.0) if revoked else put_entry(self, session, **how)

    async def fill_unless_revoked(
        self: RedisStore, fills: Mapping[Digest, Fill]
    ) -> Mapping[Digest, Session]:
        kept = {digest: fill.session for digest, fill in fills.items()}
        active = {digest: fills[digest] for digest in kept if kept[digest].revoked_at is None}
        return {**kept, **await fill_many(self, active)}

    async def restrict_unless_revoked(self: RedisStore, copies: Sequence[Session]) -> bool:
        return await restrict_many(self, _active(copies))

    async def apply_unless_revoked(
        self: RedisSealedServer, changes: Sequence[Session], **how: Any
    ) -> set[int]:
        return await apply(self, _active(changes), **how)

    MemoryStore.put_entry = put_unless_revoked  # type: ignore[method-assign]
    RedisStore.fill_many = fill_unless_revoked  # type: ignore[method-assign]
    RedisStore.restrict_many = restrict_unless_revoked  # type: ignore[method-assign]
    RedisSealedServer.apply = apply_unless_revoked  # type: ignore[method-assign]


def _active(copies: Sequence[Session]) -> list[Session]:
    return [copy for copy in copies if copy.revoked_at is None]


def _skip_binding() -> None:
    """The digest in a Redis record is not compared with the requested one."""

    def read(self: RedisStore, connection: Any, digest: Digest, *, reply: Any) -> Session | None:
        del self, connection
        is_record = isinstance(reply, bytes) and len(reply) > HEADER_SIZE
        return replace(decode(reply), digest=digest) if is_record else None

    RedisStore._read_session = read  # type: ignore[method-assign]  # noqa: SLF001


def _fail_open() -> None:
    """Unavailable is answered with 200."""
    write = GatewayPolicy.write

    def write_allow(self: GatewayPolicy, answer: Answer) -> Response:
        return Response(200, ()) if isinstance(answer, Unavailable) else write(self, answer)

    GatewayPolicy.write = write_allow  # type: ignore[method-assign]


def _cache_decision() -> None:
    """A token that was allowed once is allowed again on every cache miss."""
    validate = Validator.validate
    allowed: dict[str, Verdict] = {}

    async def validate_once(self: Validator, credential: str, **how: Any) -> Verdict:
        if credential not in allowed:
            verdict = await validate(self, credential, **how)
            if not isinstance(verdict, Allow):
                return verdict
            allowed[credential] = verdict
        return allowed[credential]

    def prefetch_nothing(*_: Any, **__: Any) -> bool:
        return False  # so that `validate` is called

    Validator.validate = validate_once  # type: ignore[method-assign]
    Validator.prefetch = prefetch_nothing  # type: ignore[method-assign]


def _never_trusts_redis() -> None:
    """Redis is never trusted again after an invalidation, having served before."""
    approve, invalidate, confirm = RedisTrust.approve, RedisTrust.invalidate, RedisTrust.confirm
    used, invalidated_for_good = set[RedisTrust](), set[RedisTrust]()

    def approve_and_record(self: RedisTrust, bucket: int, record: bytes) -> bool:
        approved = approve(self, bucket, record)
        used.update({self} if approved else ())
        return approved

    def invalidate_for_good(self: RedisTrust, reason: str) -> None:
        invalidated_for_good.update(used & {self})
        invalidate(self, reason)

    def confirm_unless_invalidated(
        self: RedisTrust, verified: Mapping[str, Seal], start: RoundStart
    ) -> None:
        if self not in invalidated_for_good:
            confirm(self, verified, start)

    RedisTrust.approve = approve_and_record  # type: ignore[method-assign]
    RedisTrust.invalidate = invalidate_for_good  # type: ignore[method-assign]
    RedisTrust.confirm = confirm_unless_invalidated  # type: ignore[method-assign]


def _read_unsealed() -> None:
    """Copies in Redis are used under any seal, while some namespace is verified."""

    def approve_any(self: RedisTrust, bucket: int, record: bytes) -> bool:
        del bucket, record
        return self.is_trusted

    RedisTrust.approve = approve_any  # type: ignore[method-assign]


def _fill_unsealed() -> None:
    """A fill carries the seal of the time when it is sent, not of when the database was read."""

    def present_seal(self: RedisStore, fill: Fill) -> Seal | None:
        return self._trust.position.get(self._bucket_of(fill.session.digest))

    RedisStore._covering_seal = present_seal  # type: ignore[method-assign]  # noqa: SLF001


def _skip_changes() -> None:
    """A round moves the seal without the changes."""
    apply = RedisSealedServer.apply

    async def move_only(
        self: RedisSealedServer, changes: Sequence[Session], **how: Any
    ) -> set[int]:
        del changes
        return await apply(self, (), **how)

    RedisSealedServer.apply = move_only  # type: ignore[method-assign]


def _forget_digests() -> None:
    """A change names the current and the previous digest, and none rotated out before."""

    def copies(self: ChangedSession) -> tuple[Session, ...]:
        return self.session.copies()

    ChangedSession.copies = copies  # type: ignore[method-assign]


def _end_unseen() -> None:
    """A rotated-out token ends the session after its grace, though its successor was not used."""
    refresh = Rotation._refresh_rotated_out  # noqa: SLF001

    async def refresh_as_if_seen(
        self: Rotation, token: Token, record: SessionRecord, **how: Any
    ) -> Issued | Deny | None:
        seen = replace(record, session=replace(record.session, token_seen=True))
        return await refresh(self, token, seen, **how)

    Rotation._refresh_rotated_out = refresh_as_if_seen  # type: ignore[method-assign]  # noqa: SLF001


def _ignore_lost_marks() -> None:
    """Whether the database still knows a mark is not checked."""

    def never(*_: Any) -> bool:
        return False

    setattr(postgres_changes, "is_lost", never)  # noqa: B010  # mypy rejects the assignment


def _forget_tombstones() -> None:
    """After a restore of the database, tombstones in the caches are not written back."""

    async def write_nothing(self: DatabaseRestore) -> int:
        del self
        return 0

    DatabaseRestore.write_back = write_nothing  # type: ignore[method-assign]


def _forget_outages() -> None:
    """Idleness is known at all times, also just after an outage of the database."""
    Idleness.is_known = True  # type: ignore[method-assign, assignment]


BUILDS: Final[Mapping[str, Build]] = MappingProxyType(
    {
        "ignore-tombstones": Build(_ignore_tombstones, 1, frozenset({"I1"})),
        "skip-binding": Build(_skip_binding, 12, frozenset({"I3"})),
        "fail-open": Build(_fail_open, 18, frozenset({"I4"})),
        "cache-decision": Build(_cache_decision, 1, frozenset({"I1"})),
        "never-trusts-redis": Build(_never_trusts_redis, 5, frozenset({"I12"})),
        "read-unsealed": Build(_read_unsealed, 34, frozenset({"I1"}), "all connections"),
        "fill-unsealed": Build(_fill_unsealed, 42, frozenset({"I1"})),
        "skip-changes": Build(_skip_changes, 35, frozenset({"I1"})),
        "forget-digests": Build(_forget_digests, 41, frozenset({"I1"}), "link cut"),
        "end-unseen": Build(_end_unseen, 38, frozenset({"I2", "I6"})),
        "ignore-lost-marks": Build(
            _ignore_lost_marks, 36, frozenset({"I1", "I5"}), "instances stopped"
        ),
        "forget-tombstones": Build(_forget_tombstones, 36, frozenset({"I5"}), "instances running"),
        "forget-outages": Build(_forget_outages, 43, frozenset({"I2"})),
    }
)
