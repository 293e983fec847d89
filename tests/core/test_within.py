"""Too late is not an answer."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.within import within


async def soon() -> str:
    await asyncio.sleep(0)
    return "an answer"


async def never() -> str:
    await asyncio.Event().wait()
    return "no answer"


async def impatient() -> str:
    raise TimeoutError("somebody else's")


async def test_an_answer_in_time_passes() -> None:
    assert await within(5, "store", soon()) == "an answer"


@pytest.mark.parametrize("seconds", [0, 0.001])
async def test_too_late_is_an_outage_in_the_name_of_the_store(seconds: float) -> None:
    with pytest.raises(StoreUnavailable) as outage:
        await within(seconds, "store", never())
    assert outage.value.store == "store"


async def test_somebody_elses_timeout_is_not_taken_for_ours() -> None:
    with pytest.raises(TimeoutError, match="somebody else's"):
        await within(5, "store", impatient())
