"""Builds that are broken on purpose: a rig that does not catch them proves nothing.

Each patches one thing of `sidegate`, in an instance's process, before it serves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.core.verdict import Allow, Unavailable, Verdict
from sidegate.services.validator import Validator
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.codec import decode
from sidegate.stores.memory import MemoryStore
from sidegate.stores.redis.store import RedisStore
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.messages import Response


@dataclass(frozen=True, slots=True)
class Build:
    """`fault` is the number of the one that shows it, by a breach of one of `invariants`."""

    breaking: Callable[[], None]
    fault: int
    invariants: frozenset[str]


def _ignore_tombstones() -> None:
    """Hot stores do not take a session's last copy."""
    keep, put_many = MemoryStore.put_nowait, RedisStore.put_many

    def keep_the_living(self: MemoryStore, session: Session) -> Session:
        return session if session.revoked_at is not None else keep(self, session)

    async def put_the_living(
        self: RedisStore, sessions: Mapping[Digest, Session]
    ) -> Mapping[Digest, Session]:
        living = {digest: each for digest, each in sessions.items() if each.revoked_at is None}
        return {**sessions, **await put_many(self, living)}

    MemoryStore.put_nowait = keep_the_living  # type: ignore[method-assign]
    RedisStore.put_many = put_the_living  # type: ignore[method-assign]


def _skip_binding() -> None:
    """Whatever Redis replies is taken for the answer: the digest in the record is not compared."""

    async def read(self: RedisStore, line: Any, digest: Any, reply: Any) -> Session | None:
        del self, line
        return replace(decode(reply), digest=digest) if isinstance(reply, bytes) and reply else None

    RedisStore._read = read  # type: ignore[method-assign]  # noqa: SLF001


def _fail_open() -> None:
    """Who cannot be asked about is let in."""
    write = GatewayPolicy.write

    def write_yes(self: GatewayPolicy, verdict: Verdict) -> Response:
        return Response(200, ()) if isinstance(verdict, Unavailable) else write(self, verdict)

    GatewayPolicy.write = write_yes  # type: ignore[method-assign]


def _cache_decision() -> None:
    """Whoever the stores let in once is let in again wherever memory cannot tell."""
    validate = Validator.validate
    allowed: dict[str, Verdict] = {}

    async def validate_once(self: Validator, credential: str, **how: Any) -> Verdict:
        if credential not in allowed:
            verdict = await validate(self, credential, **how)
            if not isinstance(verdict, Allow):
                return verdict
            allowed[credential] = verdict
        return allowed[credential]

    def fetch_nothing(*_: Any, **__: Any) -> bool:
        return False  # `validate` is asked instead

    Validator.validate = validate_once  # type: ignore[method-assign]
    Validator.prefetch = fetch_nothing  # type: ignore[method-assign]


def _never_believes() -> None:
    """After the first doubt that arises once Redis has answered, it is never believed again."""
    find, doubt, confirm = RedisTrust.find_many, RedisTrust.distrust, RedisTrust.trust
    answered, over = set[RedisTrust](), set[RedisTrust]()

    async def find_and_note(
        self: RedisTrust, digests: Sequence[Digest]
    ) -> Mapping[Digest, Session]:
        found = await find(self, digests)
        answered.add(self)
        return found

    def doubt_for_ever(self: RedisTrust) -> None:
        over.update(answered & {self})
        doubt(self)

    def confirm_unless_over(self: RedisTrust) -> None:
        if self not in over:
            confirm(self)

    RedisTrust.find_many = find_and_note  # type: ignore[method-assign]
    RedisTrust.distrust = doubt_for_ever  # type: ignore[method-assign]
    RedisTrust.trust = confirm_unless_over  # type: ignore[method-assign]


BUILDS: Final[Mapping[str, Build]] = MappingProxyType(
    {
        "ignore-tombstones": Build(_ignore_tombstones, 1, frozenset({"I1"})),
        "skip-binding": Build(_skip_binding, 12, frozenset({"I3"})),
        "fail-open": Build(_fail_open, 18, frozenset({"I4"})),
        "cache-decision": Build(_cache_decision, 1, frozenset({"I1"})),
        "never-believes": Build(_never_believes, 5, frozenset({"I12"})),
    }
)
