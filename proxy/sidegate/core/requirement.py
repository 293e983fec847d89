"""What an access rule needs of a request, and the answer to one whose credential was judged."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, TypeVar, assert_never

from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow, Anonymous, Answer, Deny, Reason, Unavailable, Verdict

_T = TypeVar("_T")


class Access(IntEnum):
    """What becomes of a request without a valid session; a higher one is stricter."""

    PUBLIC = 0  # allowed, and no session is looked up
    OPTIONAL = 1  # allowed
    SESSION = 2  # denied


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a request needs to be allowed. The conditions apply to a session that is needed.

    `types` and `tenants` are those that are allowed, None: any. `scopes` are all needed. `max_age`:
    how long ago the user may have authenticated. `bound`: the session has to be bound to a client.
    `counts_activity`: whether an allowed request keeps the session from becoming idle.
    """

    access: Access = Access.SESSION
    types: frozenset[SessionType] | None = None
    scopes: frozenset[str] = frozenset()
    tenants: frozenset[str] | None = None
    max_age: timedelta | None = None
    bound: bool = False
    counts_activity: bool = True

    @property
    def has_conditions(self) -> bool:
        """Whether some valid sessions are not enough."""
        return self != Requirement(self.access, counts_activity=self.counts_activity)

    def combine(self, other: "Requirement") -> "Requirement":
        """Return the requirement that is satisfied if both are."""
        return Requirement(
            max(self.access, other.access),
            _intersect(self.types, other.types),
            self.scopes | other.scopes,
            _intersect(self.tenants, other.tenants),
            min(filter(None, (self.max_age, other.max_age)), default=None),
            self.bound or other.bound,
            self.counts_activity and other.counts_activity,
        )

    def apply(self, verdict: Verdict, now: datetime | None, *, tenant: str | None = None) -> Answer:
        """Return the answer to a request whose credential was judged like this.

        `now` is known if the verdict is Allow, and `tenant` is that of its session. An outage stays
        one: it is neither a denial nor the absence of a session.
        """
        if self.access is Access.PUBLIC:
            return Anonymous()
        match verdict:
            case Allow(session):
                if self.access is Access.OPTIONAL:
                    return verdict
                assert now is not None
                return self.find_denial(session, now, tenant=tenant) or verdict
            case Deny():
                return Anonymous() if self.access is Access.OPTIONAL else verdict
            case Unavailable():
                return verdict
            case never:
                assert_never(never)

    def find_denial(
        self, session: Session, now: datetime, *, tenant: str | None = None
    ) -> Deny | None:
        """Return why a valid session is not enough, or None."""
        if (
            (self.types is not None and session.type not in self.types)
            or (self.tenants is not None and tenant not in self.tenants)
            or (self.bound and not session.binding)
        ):
            return Deny(Reason.RULE)
        if not self.scopes.issubset(session.scopes):
            return Deny(Reason.SCOPE, scopes=tuple(sorted(self.scopes)))
        if self.max_age is not None and now - session.authenticated_at > self.max_age:
            return Deny(Reason.AUTHENTICATION_AGE, max_age=self.max_age)
        return None


ANY_SESSION: Final = Requirement()
"""What a request needs without a rule."""


def combine(requirements: Iterable[Requirement]) -> Requirement:
    """Return the requirement that is satisfied if all are. There is at least one."""
    first, *others = requirements
    for other in others:
        first = first.combine(other)
    return first


def _intersect(one: frozenset[_T] | None, other: frozenset[_T] | None) -> frozenset[_T] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other
