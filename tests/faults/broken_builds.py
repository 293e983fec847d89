"""Builds with an injected bug. The rig has to detect each of them.

Each patches one part of `sidegate` in the process of an instance before it serves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from sidegate.core.digest import Digest
from sidegate.core.protocols import Mark
from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Unavailable, Verdict
from sidegate.services.validator import Validator
from sidegate.stores.client.redis_trust import RedisTrust, Trusted
from sidegate.stores.codec import decode
from sidegate.stores.memory import MemoryStore
from sidegate.stores.redis.store import RedisStore
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.messages import Response


@dataclass(frozen=True, slots=True)
class Build:
    """`fault` is the number of the fault that exposes the bug, as violations of `invariants`."""

    inject: Callable[[], None]
    fault: int
    invariants: frozenset[str]


def _ignore_tombstones() -> None:
    """Caches do not store tombstones."""
    put, put_many = MemoryStore.put_nowait, RedisStore.put_many

    def put_unless_revoked(self: MemoryStore, session: Session) -> Session:
        return session if session.revoked_at is not None else put(self, session)

    async def put_many_unless_revoked(
        self: RedisStore, sessions: Mapping[Digest, Session]
    ) -> Mapping[Digest, Session]:
        active = {digest: each for digest, each in sessions.items() if each.revoked_at is None}
        return {**sessions, **await put_many(self, active)}

    MemoryStore.put_nowait = put_unless_revoked  # type: ignore[method-assign]
    RedisStore.put_many = put_many_unless_revoked  # type: ignore[method-assign]


def _skip_binding() -> None:
    """The digest in a Redis record is not compared with the requested one."""

    async def read(self: RedisStore, connection: Any, digest: Any, reply: Any) -> Session | None:
        del self, connection
        return replace(decode(reply), digest=digest) if isinstance(reply, bytes) and reply else None

    RedisStore._read_session = read  # type: ignore[method-assign]  # noqa: SLF001


def _fail_open() -> None:
    """Unavailable is answered with 200."""
    write = GatewayPolicy.write

    def write_allow(self: GatewayPolicy, verdict: Verdict) -> Response:
        return Response(200, ()) if isinstance(verdict, Unavailable) else write(self, verdict)

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
    """Redis is never trusted again after it was distrusted once, having served before."""
    find_many, distrust, confirm = Trusted.find_many, RedisTrust.distrust, RedisTrust.confirm
    used, distrusted_for_good = set[RedisTrust](), set[RedisTrust]()

    async def find_and_record(self: Trusted, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        found = await find_many(self, digests)
        used.add(self._trust)
        return found

    def distrust_for_good(self: RedisTrust) -> None:
        distrusted_for_good.update(used & {self})
        distrust(self)

    def confirm_unless_distrusted(self: RedisTrust, generation: int, *, since: Mark) -> None:
        if self not in distrusted_for_good:
            confirm(self, generation, since=since)

    Trusted.find_many = find_and_record  # type: ignore[method-assign]
    RedisTrust.distrust = distrust_for_good  # type: ignore[method-assign]
    RedisTrust.confirm = confirm_unless_distrusted  # type: ignore[method-assign]


BUILDS: Final[Mapping[str, Build]] = MappingProxyType(
    {
        "ignore-tombstones": Build(_ignore_tombstones, 1, frozenset({"I1"})),
        "skip-binding": Build(_skip_binding, 12, frozenset({"I3"})),
        "fail-open": Build(_fail_open, 18, frozenset({"I4"})),
        "cache-decision": Build(_cache_decision, 1, frozenset({"I1"})),
        "never-trusts-redis": Build(_never_trusts_redis, 5, frozenset({"I12"})),
    }
)
