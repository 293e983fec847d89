"""Log why a store refuses connections or a permission: each reason once, when it is met."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Seconds until a reason that still applies is logged again: for an address after an outage that has
# ended in between, for a permission in any case.
_REPEAT_AFTER: Final = 60.0
_REPEAT_DENIAL_AFTER: Final = 3600.0
# Reasons within that time. What differs each time is not logged each time.
_MAX_REASONS: Final = 8

_log: Final = logging.getLogger("sidegate.stores")


@dataclass(slots=True)
class _Outage:
    since: float
    is_logged: bool = False


class ConnectionLog:
    """Knows for each address of a store whether the last attempt to connect has failed.

    Nothing is logged where logging is not configured: a command prints the error that it meets.
    """

    def __init__(self, store: str, *, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._outages: dict[str, _Outage] = {}
        self._reasons: dict[str, dict[str, float]] = {}  # when each was logged, by address
        self._denials: dict[str, float] = {}

    def record_failure(self, address: str, reason: str) -> None:
        """Log the reason why there is no connection, unless it is known of this address."""
        now = self._monotonic()
        outage = self._outages.setdefault(address, _Outage(now))
        known = self._reasons.setdefault(address, {})
        is_new = _is_new(reason, known, since=min(outage.since, now - _REPEAT_AFTER))
        if not is_new or not _is_logging():
            return
        known[reason] = now
        outage.is_logged = True
        _log.warning(
            "store connection failed",
            extra={"store": self._store, "address": address, "reason": reason},
        )

    def record_success(self, address: str) -> None:
        """Log the end of an outage whose start was logged."""
        outage = self._outages.pop(address, None)
        if outage is not None and outage.is_logged:
            _log.info(
                "store connection restored",
                extra={
                    "store": self._store,
                    "address": address,
                    "outage_seconds": round(self._monotonic() - outage.since, 1),
                },
            )

    def record_denial(self, reason: str) -> None:
        """Log that the user lacks a permission, unless it is known."""
        now = self._monotonic()
        is_new = _is_new(reason, self._denials, since=now - _REPEAT_DENIAL_AFTER)
        if is_new and _is_logging():
            self._denials[reason] = now
            _log.warning("store permission denied", extra={"store": self._store, "reason": reason})


def _is_logging() -> bool:
    return logging.getLogger().hasHandlers()


def _is_new(reason: str, known: dict[str, float], *, since: float) -> bool:
    """Drop what was logged before `since`; return whether a reason is to be logged."""
    for old in [each for each, at in known.items() if at < since]:
        del known[old]
    return reason not in known and len(known) < _MAX_REASONS
