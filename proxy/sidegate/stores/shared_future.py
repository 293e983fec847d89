"""Let several callers await one future, each with a cancellation of its own."""

import asyncio
from typing import TypeVar

_T = TypeVar("_T")


def share_future(future: asyncio.Future[_T]) -> asyncio.Future[_T]:
    """Return a new future with the outcome of `future`; cancelling it does not cancel `future`.

    Not `asyncio.shield`: since Python 3.14 the loop reports an error behind a shield whose caller
    was cancelled, which in an outage would be a traceback for each of them.
    """
    own: asyncio.Future[_T] = future.get_loop().create_future()

    def copy_outcome(_: object) -> None:
        if own.done():  # its caller was cancelled
            return
        if future.cancelled():
            own.cancel()
        elif (error := future.exception()) is not None:
            own.set_exception(error)
        else:
            own.set_result(future.result())

    future.add_done_callback(copy_outcome)
    return own
