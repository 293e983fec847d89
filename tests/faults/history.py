"""The history of a run: one entry for each operation, with start and end on CLOCK_MONOTONIC.

Sessions are identified by id, tokens by a number that the rig assigns: a history holds no secret.
It is written as JSON lines, and is the only input of the checker.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

now = time.monotonic

RIG: Final = "rig"
REDIS: Final = "redis"
POSTGRES: Final = "postgres"
"""Names in `process` for what is not an instance."""


class Result(StrEnum):
    """How an operation ended. A write that ended in `info` may have happened or not."""

    OK = "ok"  # allowed, or acknowledged
    FAIL = "fail"  # denied or rejected
    INFO = "info"  # 503, another 5xx, a broken connection, or no answer


class TokenCategory(StrEnum):
    """Where the session of a check should be found, or why its token is invalid."""

    HOT = "hot"  # checked continually: a hit in the memory of the instance
    WARM = "warm"  # checked rarely: a hit in Redis
    COLD = "cold"  # evicted from Redis by the rig: a hit in Postgres
    AT_LIMIT = "at_limit"  # of a user at the limit: another login may have ended it
    ENDED = "ended"  # revoked or rotated out: checked to see when it is denied
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    MALFORMED = "malformed"
    FORGED = "forged"


ALWAYS_VALID = frozenset({TokenCategory.HOT, TokenCategory.WARM, TokenCategory.COLD})
"""Categories of tokens that stay valid: their checks must be allowed."""

NEVER_VALID = frozenset(
    {TokenCategory.UNKNOWN, TokenCategory.EXPIRED, TokenCategory.MALFORMED, TokenCategory.FORGED}
)
"""Categories of tokens that were never valid."""


class Entry(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", gc=False
):
    """One line. Times are seconds on CLOCK_MONOTONIC.

    A history is long and holds no reference cycles, so the garbage collector skips it.
    """

    start: float
    end: float


class Operation(Entry, frozen=True, kw_only=True, gc=False):
    """A request to an instance. `status` 0: there was no response."""

    result: Result
    instance: str
    status: int


class Check(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="check"):
    """One attempt at the gate listener. A request may need two: the first one is `retried`.

    `requested_at` is when the request started. `is_retry` marks the second attempt, `aborted` a
    client that did not wait for the response, `after_restart` a check of the final phase.
    """

    category: TokenCategory
    requested_at: float
    token: int | None = None
    session: str | None = None
    user: str | None = None
    returned_user: str | None = None
    returned_session: str | None = None
    is_retry: bool = False
    retried: bool = False
    aborted: bool = False
    after_restart: bool = False

    @property
    def may_be_use(self) -> bool:
        """Return whether an instance may have allowed the token."""
        return self.token is not None and self.result is not Result.FAIL


class Create(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="create"):
    """`key` is the Idempotency-Key: operations with the same key are the same login.

    `grace` is the grace period of the session's type, if it is not that of the rules.
    """

    user: str
    key: str
    limit: int | None = None
    grace: float | None = None
    session: str | None = None
    token: int | None = None


class Revoke(Operation, frozen=True, kw_only=True, gc=False, tag="revoke"):
    session: str


class Refresh(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="refresh"):
    """`token` was presented, `successor` was returned."""

    session: str
    token: int
    successor: int | None = None


class Migrate(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="migrate"):
    """`successor` was returned; every other token of the session becomes invalid at once."""

    session: str
    successor: int | None = None


class Listing(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="list"):
    user: str
    sessions: tuple[str, ...] = ()


class FaultPeriod(Entry, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="fault"):
    """When one episode of a fault started, and when it was repaired.

    Its recovery was observed until `observed_until`: then the next episode may be prepared. `bound`
    is how long a revocation may take meanwhile. `cpu_starved`: the fault is a lack of CPU, so CPU
    waits are not subtracted. `exclude_cold`: checks of cold sessions are not counted.
    """

    number: int
    episode: str
    bound: float
    observed_until: float | None = None
    exclude_cold: bool = False
    cpu_starved: bool = False


class InstanceFault(Entry, frozen=True, kw_only=True, gc=False, tag="instance_fault"):
    """An instance itself was stopped, killed or blocked: it need not answer in time."""

    instance: str


class StoresDown(Entry, frozen=True, kw_only=True, gc=False, tag="stores_down"):
    """No instance could reach any store."""


class RedisDataLoss(Entry, frozen=True, kw_only=True, gc=False, tag="redis_data_loss"):
    """Redis lost all its data: a revocation answered with 202 may be lost with it."""


class DatabaseRestore(
    Entry, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="database_restore"
):
    """The database was replaced by an older state of it, which lacks acknowledged changes.

    It stopped at `start`; from `end` on the older state is reachable. Unknown to it are `sessions`
    and `tokens`, which may still be allowed for `bound` seconds. Sessions that had ended are active
    in it: those of `tombstones` end again by `settled_at`, because Redis holds their tombstones;
    the end of those of `ends` is lost.
    """

    bound: float
    settled_at: float
    sessions: frozenset[str] = frozenset()
    tokens: frozenset[int] = frozenset()
    tombstones: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()


class Stall(Entry, frozen=True, kw_only=True, gc=False, tag="stall"):
    """A process was runnable for `waited` seconds of this time, but was not scheduled.

    Latencies measured meanwhile say nothing about an instance.
    """

    process: str  # RIG, REDIS, POSTGRES, or the name of an instance
    waited: float


class ActiveCount(Entry, frozen=True, kw_only=True, gc=False, tag="active_count"):
    """Number of active sessions of a user when the load has ended."""

    user: str
    sessions: int
    limit: int


class AuditEvent(Entry, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="audit_event"):
    """A row of the audit trail; start and end are when it was read."""

    action: str
    session: str
    version: int
    user: str
    reason: str | None = None


_AnyEntry = (
    Check
    | Create
    | Revoke
    | Refresh
    | Migrate
    | Listing
    | FaultPeriod
    | InstanceFault
    | StoresDown
    | RedisDataLoss
    | DatabaseRestore
    | Stall
    | ActiveCount
    | AuditEvent
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_AnyEntry).decode


class HistoryRecorder:
    """Collects entries as operations end, and writes them to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.cpu_wait_seconds = defaultdict[str, float](float)  # by process
        self._file = path.open("wb", buffering=1 << 20)

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        if isinstance(entry, Stall):
            self.cpu_wait_seconds[entry.process] += entry.waited
        self.entries.append(entry)
        self._file.write(_encode(entry) + b"\n")

    def discard_checks(self) -> None:
        """Keep in memory only the entries that later checks depend on. The file keeps all."""
        uses = set(find_first_uses(self.entries))
        self.entries = [
            entry for entry in self.entries if is_needed_later(entry) or id(entry) in uses
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def is_needed_later(entry: Entry) -> bool:
    """Return whether the judgement of later entries depends on this one."""
    if isinstance(entry, Check):
        return entry.category is TokenCategory.ENDED and entry.result is Result.FAIL
    return not isinstance(entry, Listing | Stall)


def find_first_uses(entries: Iterable[Entry]) -> Iterator[int]:
    """Yield the `id()` of the first check that used each token issued by a refresh.

    Two for a token whose first check had no answer: the second is the first that was allowed.
    """
    kept = list(entries)
    successors = {entry.successor for entry in kept if isinstance(entry, Refresh)}
    used = set[tuple[int | None, bool]]()
    for entry in kept:
        if isinstance(entry, Check) and entry.token in successors and entry.may_be_use:
            use = entry.token, entry.result is Result.OK
            if use not in used:
                used.add(use)
                yield id(entry)


def read_history(path: Path) -> Iterator[Entry]:
    """Yield the entries of a file in the order they were written."""
    with path.open("rb") as lines:
        for line in lines:
            yield _decode(line)
