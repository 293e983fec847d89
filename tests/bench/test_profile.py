"""The profile of a memory hit."""

from tests.bench.profile import format_table, profile_hit


async def test_functions_of_a_hit_are_timed_and_the_rest_is_last() -> None:
    whole, *functions, rest = await profile_hit(calls=50, repeats=3)

    assert whole.function.endswith(".data_received")
    assert rest.function == "rest"
    assert all(cost.microseconds > 0 for cost in (whole, *functions))
    assert len(format_table([whole, *functions, rest]).splitlines()) == len(functions) + 2
