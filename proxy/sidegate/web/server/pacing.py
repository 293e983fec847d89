"""Start requests and parse input step by step, so that many take no more time than few."""

import asyncio
from collections import deque
from typing import Protocol


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


class PacedConnection(Protocol):
    """A connection with input that is not parsed yet."""

    def parse_piece(self) -> None:
        """Parse a piece, and if some input is left, take another turn."""
        ...


class InputPacer:
    """Gives a turn to one connection in each iteration of the event loop, in order."""

    def __init__(self) -> None:
        self._waiting = dict[PacedConnection, None]()
        self._is_scheduled = False

    def add(self, connection: PacedConnection) -> None:
        """Let a connection parse a piece when it is its turn."""
        self._waiting[connection] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._pass_turn)

    def discard(self, connection: PacedConnection) -> None:
        """Take back the turn of a connection that is closed."""
        self._waiting.pop(connection, None)

    def _pass_turn(self) -> None:
        self._is_scheduled = False
        if not self._waiting:
            return
        connection = next(iter(self._waiting))
        del self._waiting[connection]
        if self._waiting:
            self.add(next(iter(self._waiting)))  # keeps its place
        connection.parse_piece()
