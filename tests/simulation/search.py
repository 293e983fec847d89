"""Run seed after seed until one breaks a promise, or the time is over."""

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.simulation.replay import Replay
from tests.simulation.run import Outcome


@dataclass
class Search:
    """What was simulated so far, and what was found."""

    seeds: list[str] = field(default_factory=list)
    seconds: float = 0.0
    checks: int = 0
    cpu_seconds: float = 0.0
    found: list[tuple[Replay, Outcome]] = field(default_factory=list)

    @property
    def seconds_per_minute(self) -> float:
        return 60 * self.seconds / max(self.cpu_seconds, 1e-9)


def search(
    seeds: Iterable[str],
    *,
    build: str | None = None,
    is_time_left: Callable[[], bool] = lambda: True,
    stop_after: int = 1,
    on_run: Callable[[Search], None] = lambda _: None,
) -> Search:
    """Simulate seeds until `stop_after` of them have failed."""
    result = Search()
    for seed in seeds:
        if not is_time_left():
            break
        started, replay = time.process_time(), Replay(seed, build)
        outcome = replay.run()
        gc.collect()  # nothing was collected during the run
        result.seeds.append(seed)
        result.seconds += outcome.seconds
        result.checks += outcome.allowed_checks
        result.cpu_seconds += time.process_time() - started
        if outcome.violations:
            result.found.append((replay, outcome))
        on_run(result)
        if len(result.found) >= stop_after:
            break
    return result
