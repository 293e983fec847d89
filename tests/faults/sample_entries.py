"""Sample history entries for the tests of the checkers.

All are about one session of user ada with token 1, unless stated otherwise. An operation takes ten
milliseconds.
"""

from typing import Any

from tests.faults.history import (
    ActiveCount,
    AuditEvent,
    Check,
    Create,
    DatabaseRestore,
    FaultPeriod,
    InstanceFault,
    Listing,
    Migrate,
    RedisDataLoss,
    Refresh,
    Result,
    Revoke,
    Stall,
    StoresDown,
    TokenCategory,
)

_DURATION = 0.01
_LOST = ("sessions", "tokens", "tombstones", "ends")
_STATUS = {Result.OK: 200, Result.FAIL: 401, Result.INFO: 503}


def check(
    when: float,
    result: Result = Result.OK,
    category: TokenCategory = TokenCategory.HOT,
    **more: Any,
) -> Check:
    owner = {"session": "s1", "user": "ada"}
    identity: dict[str, Any] = {"token": 1} | owner
    if result is Result.OK:
        identity |= {"returned_user": "ada", "returned_session": "s1"}
    about = {"category": category, "requested_at": when}
    return Check(**_operation(when, result) | about | identity | more)


def allowed(when: float, category: TokenCategory = TokenCategory.HOT, **more: Any) -> Check:
    return check(when, Result.OK, category, **more)


def refused(when: float, category: TokenCategory = TokenCategory.HOT, **more: Any) -> Check:
    return check(when, Result.FAIL, category, **more)


def unavailable(when: float, category: TokenCategory = TokenCategory.HOT, **more: Any) -> Check:
    return check(when, Result.INFO, category, **more)


def create(when: float, result: Result = Result.OK, **more: Any) -> Create:
    new: dict[str, Any] = {"user": "ada", "key": "k1"}
    if result is Result.OK:
        new |= {"session": "s1", "token": 1}
    return Create(**_operation(when, result) | new | more)


def revoke(when: float, result: Result = Result.OK, **more: Any) -> Revoke:
    return Revoke(**_operation(when, result) | {"session": "s1"} | more)


def refresh(when: float, result: Result = Result.OK, **more: Any) -> Refresh:
    fields: dict[str, Any] = {"session": "s1", "token": 1}
    if result is Result.OK:
        fields["successor"] = 2
    return Refresh(**_operation(when, result) | fields | more)


def migrate(when: float, result: Result = Result.OK, **more: Any) -> Migrate:
    successor = {"successor": 3} if result is Result.OK else {}
    return Migrate(**_operation(when, result) | {"session": "s1"} | successor | more)


def listing(when: float, *sessions: str, **more: Any) -> Listing:
    return Listing(**_operation(when, Result.OK) | {"user": "ada", "sessions": sessions} | more)


def fault(start: float, end: float, **more: Any) -> FaultPeriod:
    fields: dict[str, Any] = {"number": 5, "episode": "", "bound": 5.0}
    return FaultPeriod(start=start, end=end, **fields | more)


def instance_fault(start: float, end: float, instance: str = "one") -> InstanceFault:
    return InstanceFault(start=start, end=end, instance=instance)


def stores_down(start: float, end: float) -> StoresDown:
    return StoresDown(start=start, end=end)


def redis_data_loss(when: float) -> RedisDataLoss:
    return RedisDataLoss(start=when, end=when)


def database_restore(start: float, end: float, **more: Any) -> DatabaseRestore:
    """By default five seconds pass until the instances have settled."""
    fields: dict[str, Any] = {"bound": 5.0, "settled_at": end + 5.0}
    lost = {name: frozenset(values) for name, values in more.items() if name in _LOST}
    return DatabaseRestore(start=start, end=end, **fields | more | lost)


def stall(start: float, end: float, waited: float, process: str = "one") -> Stall:
    return Stall(start=start, end=end, waited=waited, process=process)


def active_count(sessions: int, limit: int = 3) -> ActiveCount:
    return ActiveCount(start=100.0, end=100.0, user="ada", sessions=sessions, limit=limit)


def event(action: str, version: int, **more: Any) -> AuditEvent:
    fields: dict[str, Any] = {"session": "s1", "user": "ada"}
    return AuditEvent(start=100.0, end=100.0, action=action, version=version, **fields | more)


def _operation(when: float, result: Result) -> dict[str, Any]:
    status = _STATUS[result]
    return {
        "start": when,
        "end": when + _DURATION,
        "result": result,
        "instance": "one",
        "status": status,
    }
