"""The profile times what it says."""

from tests.bench.profile import profiled, table


async def test_every_function_of_a_hit_is_timed_and_the_rest_comes_last() -> None:
    whole, *functions, rest = await profiled(calls=50, rows=3)

    assert whole.function == "Connection.data_received"
    assert rest.function == "calls, and what stands between them"
    assert all(cost.microseconds > 0 for cost in (whole, *functions))
    assert len(table([whole, *functions, rest]).splitlines()) == len(functions) + 2
