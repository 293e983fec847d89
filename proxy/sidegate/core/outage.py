"""An outage: reported when it starts and when it ends, however often it is noticed in between."""

from collections.abc import Callable

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable


class Outage:
    """Whether something fails at present, and since when.

    An error of another kind is another cause, and is reported as well: a record that cannot be read
    still blocks a job when the database is available again.
    """

    def __init__(
        self, *, clock: Clock, on_start: Callable[[str], None], on_end: Callable[[float], None]
    ) -> None:
        """Call `on_start` with the reason, and `on_end` with the seconds that it lasted."""
        self._monotonic = clock.monotonic
        self._on_start = on_start
        self._on_end = on_end
        self._since = 0.0
        self._kinds: set[type[Exception]] = set()  # of the errors so far; none: it works

    def record_failure(self, error: Exception) -> None:
        kind = StoreUnavailable if isinstance(error, StoreUnavailable) else type(error)
        if kind in self._kinds:
            return
        if not self._kinds:
            self._since = self._monotonic()
        self._kinds.add(kind)
        self._on_start(error.reason if isinstance(error, StoreUnavailable) else str(error))

    def record_success(self) -> None:
        if self._kinds:
            self._kinds.clear()
            self._on_end(self._monotonic() - self._since)
