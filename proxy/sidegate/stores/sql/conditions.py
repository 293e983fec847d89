"""A condition as SQL: one clause for each field that is given, for Postgres and for SQLite."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never

from sidegate.core.client_ip import stretch
from sidegate.core.condition import Condition
from sidegate.core.protocols import Cursor
from sidegate.core.session import SessionId
from sidegate.core.session_state import SessionState
from sidegate.stores.codec import microseconds
from sidegate.stores.sql.rows import BEYOND_ALL, COLUMNS, canonical


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one database writes in its own way. A `{}` stands for the argument's mark."""

    mark: str
    moment: Callable[[datetime], object]
    idle_at: str
    has_scope: str
    has_in_user_agent: str


POSTGRES: Final = Dialect(
    mark="$",
    moment=lambda moment: moment,
    idle_at="last_seen_at + idle_timeout * interval '1 microsecond'",
    has_scope="{} = ANY (scopes)",
    has_in_user_agent="strpos(user_agent, {}) > 0",
)
SQLITE: Final = Dialect(
    mark="?",
    moment=microseconds,
    idle_at="last_seen_at + idle_timeout",
    has_scope="EXISTS (SELECT 1 FROM json_each(scopes) WHERE value = {})",
    has_in_user_agent="instr(user_agent, {}) > 0",
)


class Asking:
    """A statement in the making: its arguments, and how its text refers to each."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.arguments: list[object] = []

    def mark(self, value: object) -> str:
        """Note an argument and return its mark."""
        self.arguments.append(self._dialect.moment(value) if isinstance(value, datetime) else value)
        return f"{self._dialect.mark}{len(self.arguments)}"

    def matching(self, condition: Condition) -> Iterator[str]:
        """Yield the clauses of a condition, none if it means every session. ValueError: an id in
        it is none."""
        for column in _EQUAL:
            value = getattr(condition, column)
            if value is not None:
                yield f"{column} = {self.mark(value)}"
        if condition.subject_unknown:
            yield "provider_subject IS NULL"
        if condition.session_id is not None:
            yield f"id = {self.mark(canonical(condition.session_id))}"
        if condition.except_id is not None:
            yield f"id <> {self.mark(canonical(condition.except_id))}"
        if condition.scope is not None:
            yield self._dialect.has_scope.format(self.mark(condition.scope))
        if condition.ip_within is not None:
            first, last = map(self.mark, stretch(condition.ip_within))
            yield f"ip_key BETWEEN {first} AND {last}"
        if condition.user_agent_contains is not None:
            yield self._dialect.has_in_user_agent.format(self.mark(condition.user_agent_contains))
        if condition.created_before is not None:
            yield f"created_at < {self.mark(condition.created_before)}"
        if condition.last_seen_before is not None:
            yield f"last_seen_at < {self.mark(condition.last_seen_before)}"

    def being(self, state: SessionState, at: datetime) -> Iterator[str]:
        """Yield what is true of the sessions in that state, by the rule of core/judge.py."""
        match state:
            case SessionState.REVOKED:
                yield "revoked_at IS NOT NULL"
            case SessionState.EXPIRED:
                yield "revoked_at IS NULL"
                yield f"expires_at <= {self.mark(at)}"
            case SessionState.IDLE:
                yield from self.revocable(at)
                yield f"{self._dialect.idle_at} <= {self.mark(at)}"
            case SessionState.ACTIVE:
                yield from self.revocable(at)
                yield f"(idle_timeout IS NULL OR {self._dialect.idle_at} > {self.mark(at)})"
            case never:
                assert_never(never)

    def revocable(self, at: datetime) -> Iterator[str]:
        """Yield the clauses that are true of whom a revocation ends: the idle are among them."""
        yield "revoked_at IS NULL"
        yield f"expires_at > {self.mark(at)}"


_EQUAL: Final = (
    "user_id",
    "type",
    "tenant",
    "provider",
    "provider_session_id",
    "provider_subject",
)
"""The fields of a condition that are columns, and compared as they are."""


def listing(
    dialect: Dialect,
    condition: Condition,
    *,
    limit: int,
    after: Cursor | None,
    state: tuple[SessionState, datetime] | None,
) -> tuple[str, list[object]]:
    """Return the query for a page of records, newest first, and its arguments."""
    asking, begin = Asking(dialect), after or BEYOND_ALL
    clauses = [*asking.matching(condition), *(asking.being(*state) if state else ())]
    clauses.append(f"(created_at, id) < ({asking.mark(begin.created_at)}, {asking.mark(begin.id)})")
    query = (
        f"SELECT {', '.join(COLUMNS)} FROM sessions WHERE {' AND '.join(clauses)}"  # noqa: S608
        f" ORDER BY created_at DESC, id DESC LIMIT {asking.mark(limit)}"
    )
    return query, asking.arguments


def counting(dialect: Dialect, condition: Condition, at: datetime) -> tuple[str, list[object]]:
    """Return the query for how many sessions a revocation would end, and its arguments."""
    asking = Asking(dialect)
    clauses = (*asking.matching(condition), *asking.revocable(at))
    query = f"SELECT count(*) AS number FROM sessions WHERE {' AND '.join(clauses)}"  # noqa: S608
    return query, asking.arguments


def revocable(
    asking: Asking, condition: Condition, *, at: datetime, after: SessionId | None, limit: int
) -> str:
    """Return the query for the ids of the next sessions that a revocation is to end, in order."""
    clauses = [*asking.matching(condition), *asking.revocable(at)]
    if after is not None:
        clauses.append(f"id > {asking.mark(canonical(after))}")
    return (
        f"SELECT id FROM sessions WHERE {' AND '.join(clauses)}"  # noqa: S608
        f" ORDER BY id LIMIT {asking.mark(limit)}"
    )
