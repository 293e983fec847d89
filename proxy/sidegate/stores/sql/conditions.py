"""Conditions as SQL: one clause for each field that is set, for Postgres and SQLite."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never

from sidegate.core.client_ip import to_sort_key_range
from sidegate.core.condition import Condition
from sidegate.core.protocols import Cursor
from sidegate.core.session import SessionId
from sidegate.core.session_state import SessionState
from sidegate.stores.codec import to_microseconds
from sidegate.stores.sql.rows import LIST_START, RECORD_COLUMNS, require_canonical


@dataclass(frozen=True, slots=True)
class Dialect:
    """The SQL that differs between the databases. `{}` stands for a placeholder.

    `changed_xid` is the column with the transaction or the number of the last change.
    """

    placeholder: str
    changed_xid: str
    encode_timestamp: Callable[[datetime], object]
    idle_at: str
    has_scope: str
    has_in_user_agent: str


POSTGRES: Final = Dialect(
    placeholder="$",
    changed_xid="changed_xid",
    encode_timestamp=lambda timestamp: timestamp,
    idle_at="last_seen_at + idle_timeout * interval '1 microsecond'",
    has_scope="{} = ANY (scopes)",
    has_in_user_agent="strpos(user_agent, {}) > 0",
)
SQLITE: Final = Dialect(
    placeholder="?",
    changed_xid="change_number AS changed_xid",
    encode_timestamp=to_microseconds,
    idle_at="last_seen_at + idle_timeout",
    has_scope="EXISTS (SELECT 1 FROM json_each(scopes) WHERE value = {})",
    has_in_user_agent="instr(user_agent, {}) > 0",
)


class QueryBuilder:
    """Collects the arguments of a statement, and returns their placeholders."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.arguments: list[object] = []

    def bind(self, value: object) -> str:
        """Add an argument and return its placeholder."""
        self.arguments.append(
            self._dialect.encode_timestamp(value) if isinstance(value, datetime) else value
        )
        return f"{self._dialect.placeholder}{len(self.arguments)}"

    def match_condition(self, condition: Condition) -> Iterator[str]:
        """Yield the clauses of a condition, none if it matches every session.

        Raise ValueError if an id in it is not canonical.
        """
        for column in _EQUALITY_COLUMNS:
            value = getattr(condition, column)
            if value is not None:
                yield f"{column} = {self.bind(value)}"
        if condition.subject_unknown:
            yield "provider_subject IS NULL"
        if condition.session_id is not None:
            yield f"id = {self.bind(require_canonical(condition.session_id))}"
        if condition.except_id is not None:
            yield f"id <> {self.bind(require_canonical(condition.except_id))}"
        if condition.scope is not None:
            yield self._dialect.has_scope.format(self.bind(condition.scope))
        if condition.ip_within is not None:
            first, last = map(self.bind, to_sort_key_range(condition.ip_within))
            yield f"ip_key BETWEEN {first} AND {last}"
        if condition.user_agent_contains is not None:
            yield self._dialect.has_in_user_agent.format(self.bind(condition.user_agent_contains))
        if condition.created_before is not None:
            yield f"created_at < {self.bind(condition.created_before)}"
        if condition.last_seen_before is not None:
            yield f"last_seen_at < {self.bind(condition.last_seen_before)}"

    def match_state(self, state: SessionState, at: datetime) -> Iterator[str]:
        """Yield the clauses for sessions in that state, by the rule of core/judge.py."""
        match state:
            case SessionState.REVOKED:
                yield "revoked_at IS NOT NULL"
            case SessionState.EXPIRED:
                yield "revoked_at IS NULL"
                yield f"expires_at <= {self.bind(at)}"
            case SessionState.IDLE:
                yield from self.match_revocable(at)
                yield f"{self._dialect.idle_at} <= {self.bind(at)}"
            case SessionState.ACTIVE:
                yield from self.match_revocable(at)
                yield f"(idle_timeout IS NULL OR {self._dialect.idle_at} > {self.bind(at)})"
            case never:
                assert_never(never)

    def match_revocable(self, at: datetime) -> Iterator[str]:
        """Yield the clauses for sessions that a revocation ends: active or idle ones."""
        yield "revoked_at IS NULL"
        yield f"expires_at > {self.bind(at)}"


_EQUALITY_COLUMNS: Final = (
    "user_id",
    "type",
    "tenant",
    "provider",
    "provider_session_id",
    "provider_subject",
)
"""The fields of a condition that equal the column of the same name."""


def build_list_query(
    dialect: Dialect,
    condition: Condition,
    *,
    limit: int,
    after: Cursor | None,
    state: tuple[SessionState, datetime] | None,
) -> tuple[str, list[object]]:
    """Return the query for a page of records, newest first, and its arguments."""
    builder, start = QueryBuilder(dialect), after or LIST_START
    clauses = [*builder.match_condition(condition), *(builder.match_state(*state) if state else ())]
    clauses.append(
        f"(created_at, id) < ({builder.bind(start.created_at)}, {builder.bind(start.id)})"
    )
    query = (
        f"SELECT {', '.join((*RECORD_COLUMNS, dialect.changed_xid))} FROM sessions"  # noqa: S608
        f" WHERE {' AND '.join(clauses)}"
        f" ORDER BY created_at DESC, id DESC LIMIT {builder.bind(limit)}"
    )
    return query, builder.arguments


def build_count_query(
    dialect: Dialect, condition: Condition, *, at: datetime
) -> tuple[str, list[object]]:
    """Return the query for the number of sessions a revocation would end, and its arguments."""
    builder = QueryBuilder(dialect)
    clauses = (*builder.match_condition(condition), *builder.match_revocable(at))
    query = f"SELECT count(*) AS number FROM sessions WHERE {' AND '.join(clauses)}"  # noqa: S608
    return query, builder.arguments


def build_revocable_query(
    builder: QueryBuilder,
    condition: Condition,
    *,
    at: datetime,
    after: SessionId | None,
    limit: int,
) -> str:
    """Return the query for the ids of the next sessions to revoke, in ascending order."""
    clauses = [*builder.match_condition(condition), *builder.match_revocable(at)]
    if after is not None:
        clauses.append(f"id > {builder.bind(require_canonical(after))}")
    return (
        f"SELECT id FROM sessions WHERE {' AND '.join(clauses)}"  # noqa: S608
        f" ORDER BY id LIMIT {builder.bind(limit)}"
    )
