"""Start requests one by one, so that many of them take no more from other listeners than few."""

import asyncio
from collections import deque


class RequestPacer:
    """Lets one request pass in each interval, or in each iteration of the event loop.

    Others wait in order. Between two of them the loop serves every other connection.
    """

    def __init__(self, interval: float = 0.0) -> None:
        """`interval` is in seconds; 0: one iteration of the event loop."""
        self._interval = interval
        self._is_taken = False  # the turn of this interval
        self._waiting = deque[asyncio.Future[None]]()

    async def wait_for_turn(self) -> None:
        """Return at once if no other request passed in this interval."""
        if not self._is_taken:
            self._is_taken = True
            self._schedule()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        if self._interval:
            loop.call_later(self._interval, self._pass_turn)
        else:
            loop.call_soon(self._pass_turn)

    def _pass_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its request was cancelled
                turn.set_result(None)
                self._schedule()
                return
        self._is_taken = False
