"""Validation of lifetimes."""

from datetime import timedelta

import pytest

from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes
from sidegate.core.session_type import SessionType

HOUR, MINUTE, ZERO = timedelta(hours=1), timedelta(minutes=1), timedelta(0)


def test_every_type_has_default_lifetimes() -> None:
    assert set(DEFAULT_LIFETIMES) == set(SessionType)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lifetime": ZERO, "idle_timeout": None}, "longer than 0s"),
        ({"lifetime": HOUR, "idle_timeout": ZERO}, "longer than 0s"),
        ({"lifetime": HOUR, "idle_timeout": None, "grace": -MINUTE}, "grace"),
        ({"lifetime": HOUR, "idle_timeout": None, "grace": HOUR}, "grace"),
        ({"lifetime": HOUR, "idle_timeout": MINUTE, "touch_threshold": MINUTE}, "third"),
    ],
)
def test_lifetimes_out_of_range_raise_value_error(
    arguments: dict[str, timedelta], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Lifetimes(**arguments)


def test_touch_threshold_of_a_third_of_the_idle_timeout_is_allowed() -> None:
    Lifetimes(HOUR, 3 * MINUTE, touch_threshold=MINUTE)
    with pytest.raises(ValueError, match="third"):
        Lifetimes(HOUR, 3 * MINUTE, touch_threshold=MINUTE + timedelta(microseconds=1))
