"""The profile times what it says, and the parts make the whole."""

import pytest

from tests.bench.profile import profiled, table


async def test_the_parts_of_a_hit_make_the_whole() -> None:
    whole, *parts = await profiled(calls=50, rows=3)

    assert whole.function == "Connection.data_received"
    assert sum(part.microseconds for part in parts if part.depth == 1) == pytest.approx(
        whole.microseconds
    )
    assert all(part.microseconds > 0 for part in parts[:-1])
    assert len(table([whole, *parts]).splitlines()) == len(parts) + 1
