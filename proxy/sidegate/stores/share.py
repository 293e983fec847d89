"""Wait for what others wait for too, without taking it from them."""

import asyncio
from typing import TypeVar

_T = TypeVar("_T")


def share(future: asyncio.Future[_T]) -> asyncio.Future[_T]:
    """Return a future of the caller's own that comes to the same; cancelling it cancels no other.

    Not `asyncio.shield`: since Python 3.14 the loop reports an error behind a shield whose caller
    has left, and in an outage that would be a traceback for each of them.
    """
    own: asyncio.Future[_T] = future.get_loop().create_future()

    def landed(_: object) -> None:
        if own.done():  # its caller has left
            return
        if future.cancelled():
            own.cancel()
        elif (error := future.exception()) is not None:
            own.set_exception(error)
        else:
            own.set_result(future.result())

    future.add_done_callback(landed)
    return own
