"""Entries of histories that never happened, for the tests of those who judge them.

Everything is about one session of ada's, with token 1, unless it says otherwise; an operation lasts
ten milliseconds.
"""

from typing import Any

from tests.faults.history import (
    Check,
    Create,
    Dark,
    Event,
    Forgotten,
    Hurt,
    Listing,
    Living,
    Mark,
    Refresh,
    Result,
    Revoke,
    Road,
    Stall,
)

_TOOK = 0.01
_STATUS = {Result.OK: 200, Result.FAIL: 401, Result.INFO: 503}


def check(when: float, result: Result = Result.OK, road: Road = Road.HOT, **more: Any) -> Check:
    owner = {"session": "s1", "user": "ada"}
    whose: dict[str, Any] = {"token": 1} | owner
    if result is Result.OK:
        whose |= {"named": "ada", "named_session": "s1"}
    return Check(**_operation(when, result) | {"road": road, "asked": when} | whose | more)


def allowed(when: float, road: Road = Road.HOT, **more: Any) -> Check:
    return check(when, Result.OK, road, **more)


def refused(when: float, road: Road = Road.HOT, **more: Any) -> Check:
    return check(when, Result.FAIL, road, **more)


def unavailable(when: float, road: Road = Road.HOT, **more: Any) -> Check:
    return check(when, Result.INFO, road, **more)


def create(when: float, result: Result = Result.OK, **more: Any) -> Create:
    new: dict[str, Any] = {"user": "ada", "key": "k1"}
    if result is Result.OK:
        new |= {"session": "s1", "token": 1}
    return Create(**_operation(when, result) | new | more)


def revoke(when: float, result: Result = Result.OK, **more: Any) -> Revoke:
    return Revoke(**_operation(when, result) | {"session": "s1"} | more)


def refresh(when: float, result: Result = Result.OK, **more: Any) -> Refresh:
    what: dict[str, Any] = {"session": "s1", "token": 1}
    if result is Result.OK:
        what["successor"] = 2
    return Refresh(**_operation(when, result) | what | more)


def listing(when: float, *sessions: str, **more: Any) -> Listing:
    return Listing(**_operation(when, Result.OK) | {"user": "ada", "sessions": sessions} | more)


def fault(start: float, end: float, **more: Any) -> Mark:
    about: dict[str, Any] = {"number": 5, "episode": "", "bound": 5.0}
    return Mark(start=start, end=end, **about | more)


def hurt(start: float, end: float, instance: str = "one") -> Hurt:
    return Hurt(start=start, end=end, instance=instance)


def dark(start: float, end: float) -> Dark:
    return Dark(start=start, end=end)


def forgotten(when: float) -> Forgotten:
    return Forgotten(start=when, end=when)


def stall(start: float, end: float, waited: float, who: str = "one") -> Stall:
    return Stall(start=start, end=end, waited=waited, who=who)


def living(sessions: int, limit: int = 3) -> Living:
    return Living(start=100.0, end=100.0, user="ada", sessions=sessions, limit=limit)


def event(action: str, version: int, **more: Any) -> Event:
    about: dict[str, Any] = {"session": "s1", "user": "ada"}
    return Event(start=100.0, end=100.0, action=action, version=version, **about | more)


def _operation(when: float, result: Result) -> dict[str, Any]:
    status = _STATUS[result]
    return {"start": when, "end": when + _TOOK, "result": result, "at": "one", "status": status}
