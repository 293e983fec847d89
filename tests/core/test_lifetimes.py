"""Lifetimes refuse what would log people out, or never."""

from datetime import timedelta

import pytest

from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes
from sidegate.core.session_type import SessionType

HOUR, MINUTE, NOTHING = timedelta(hours=1), timedelta(minutes=1), timedelta(0)


def test_every_type_has_its_defaults() -> None:
    assert set(DEFAULT_LIFETIMES) == set(SessionType)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"lifetime": NOTHING, "idle_timeout": None}, "longer than nothing"),
        ({"lifetime": HOUR, "idle_timeout": NOTHING}, "longer than nothing"),
        ({"lifetime": HOUR, "idle_timeout": None, "grace": -MINUTE}, "grace"),
        ({"lifetime": HOUR, "idle_timeout": None, "grace": HOUR}, "grace"),
        ({"lifetime": HOUR, "idle_timeout": MINUTE, "touch_threshold": MINUTE}, "half"),
    ],
)
def test_impossible_lifetimes_are_refused(arguments: dict[str, timedelta], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Lifetimes(**arguments)
