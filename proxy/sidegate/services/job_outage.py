"""Log when a background job begins to fail and when it works again, not each failed round."""

import logging
from typing import Final

from sidegate.core.clock import Clock
from sidegate.core.outage import Outage

_log: Final = logging.getLogger("sidegate.jobs")


def watch_job(job: str, clock: Clock) -> Outage:
    """Return what records the rounds of `job`, and logs the start and the end of an outage."""

    def log_start(reason: str) -> None:
        _log.warning("background job failing", extra={"job": job, "reason": reason})

    def log_end(seconds: float) -> None:
        _log.info(
            "background job recovered", extra={"job": job, "outage_seconds": round(seconds, 1)}
        )

    return Outage(clock=clock, on_start=log_start, on_end=log_end)
