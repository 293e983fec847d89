"""`sidegate` in which one background task always fails, and another fails once."""

from typing import Any, NoReturn

from sidegate.cli.main import main
from sidegate.services.activity import ActivityRecorder
from sidegate.services.analytics import Analytics

_run_activity = ActivityRecorder.run
_activity_runs = 0


async def _fail(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("on purpose")


async def _fail_once(recorder: ActivityRecorder, interval: float) -> NoReturn:
    global _activity_runs  # of this process
    _activity_runs += 1
    if _activity_runs == 1:
        raise RuntimeError("on purpose")
    await _run_activity(recorder, interval)


Analytics.run = _fail  # type: ignore[method-assign]
ActivityRecorder.run = _fail_once  # type: ignore[method-assign, assignment]
main(prog_name="sidegate")
