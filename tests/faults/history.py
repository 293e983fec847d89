"""What was done: one entry for each operation, with its start and end on CLOCK_MONOTONIC.

Sessions are named by their id, tokens by a number the rig gives them: a history holds no secret.
It is written as JSON lines, and the checker reads nothing else.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

now = time.monotonic

RIG: Final = "rig"
REDIS: Final = "redis"
POSTGRES: Final = "postgres"
"""Who it is when an entry is not about an instance."""


class Result(StrEnum):
    """How an operation ended. A write that ended in `info` may have happened or not."""

    OK = "ok"  # allowed, or acknowledged
    FAIL = "fail"  # answered with no
    INFO = "info"  # 503, another 5xx, a broken connection, or no answer


class Road(StrEnum):
    """Which way a check is meant to go, or why its token is worth nothing."""

    HOT = "hot"  # asked for all the time: a hit in the instance's memory
    WARM = "warm"  # asked for seldom: a hit in Redis
    COLD = "cold"  # Redis was made to forget it: a hit in Postgres
    CROWD = "crowd"  # of a user at the limit: may have ended for another one
    OVER = "over"  # revoked, or rotated out: asked for to see when it is refused
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    MALFORMED = "malformed"
    FORGED = "forged"


LIVE = frozenset({Road.HOT, Road.WARM, Road.COLD})
"""Roads of tokens that are valid and stay so: only here is an allow owed."""

WORTHLESS = frozenset({Road.UNKNOWN, Road.EXPIRED, Road.MALFORMED, Road.FORGED})
"""Roads of tokens that were never valid."""


class Entry(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", gc=False
):
    """One line. Times are seconds on CLOCK_MONOTONIC.

    A history is long and holds no cycles: it is no business of the garbage collector.
    """

    start: float
    end: float


class Operation(Entry, frozen=True, kw_only=True, gc=False):
    """Something that was asked of an instance. `status` 0: it never answered."""

    result: Result
    at: str
    status: int


class Check(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="check"):
    """One try at the gate. A request may need two: the first one is `retried`.

    `asked` is when the request began. `again` says that it is the second try, `left` that the
    client did not wait for the answer, `last` that everything had been killed and started again.
    """

    road: Road
    asked: float
    token: int | None = None
    session: str | None = None
    user: str | None = None
    named: str | None = None
    named_session: str | None = None
    again: bool = False
    retried: bool = False
    left: bool = False
    last: bool = False


class Create(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="create"):
    """`key` is the Idempotency-Key: operations with the same one are the same log-in."""

    user: str
    key: str
    limit: int | None = None
    session: str | None = None
    token: int | None = None


class Revoke(Operation, frozen=True, kw_only=True, gc=False, tag="revoke"):
    session: str


class Refresh(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="refresh"):
    """`token` was presented, `successor` came back."""

    session: str
    token: int
    successor: int | None = None


class Listing(Operation, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="list"):
    user: str
    sessions: tuple[str, ...] = ()


class Mark(Entry, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="fault"):
    """When one episode of a fault began, and when it was healed.

    `bound` is how long a revocation may take meanwhile. `starving`: being short of the CPU is the
    fault, and no excuse.
    """

    number: int
    episode: str
    bound: float
    without_cold: bool = False
    starving: bool = False


class Hurt(Entry, frozen=True, kw_only=True, gc=False, tag="hurt"):
    """An instance itself was stopped, killed or blocked: it owes no answer in time."""

    instance: str


class Dark(Entry, frozen=True, kw_only=True, gc=False, tag="dark"):
    """No instance could reach any store."""


class Forgotten(Entry, frozen=True, kw_only=True, gc=False, tag="forgotten"):
    """Redis lost all it knew: a revocation that was only promised (202) may be lost with it."""


class Stall(Entry, frozen=True, kw_only=True, gc=False, tag="stall"):
    """Somebody wanted the CPU for `waited` seconds of this time, and others had it.

    What was measured meanwhile is not the slowness of an instance.
    """

    who: str  # RIG, REDIS, POSTGRES, or the name of an instance
    waited: float


class Living(Entry, frozen=True, kw_only=True, gc=False, tag="living"):
    """So many sessions of a user live when nothing goes on any more."""

    user: str
    sessions: int
    limit: int


class Event(Entry, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="event"):
    """A line of the audit trail; start and end are when it was read."""

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
    | Listing
    | Mark
    | Hurt
    | Dark
    | Forgotten
    | Stall
    | Living
    | Event
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_AnyEntry).decode


class Record:
    """Takes entries as operations end, and writes them to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.stalled = defaultdict[str, float](float)  # seconds, by who waited for the CPU
        self._file = path.open("wb", buffering=1 << 20)

    def note(self, entry: Entry) -> None:
        """Take an entry. Never waits for more than the disk."""
        if isinstance(entry, Stall):
            self.stalled[entry.who] += entry.waited
        self.entries.append(entry)
        self._file.write(_encode(entry) + b"\n")

    def forget_checks(self) -> None:
        """Keep in memory only what later entries may have to be judged by."""
        self.entries = [entry for entry in self.entries if lasts(entry)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def lasts(entry: Entry) -> bool:
    """Say whether an entry bears on those that come long after: changes, marks, and first noes."""
    if isinstance(entry, Check):
        return entry.road is Road.OVER and entry.result is Result.FAIL
    return not isinstance(entry, Listing | Stall)


def read(path: Path) -> Iterator[Entry]:
    """Yield the entries of a file in the order they were written."""
    with path.open("rb") as lines:
        for line in lines:
            yield _decode(line)
