"""A smaller plan that still breaks the same promise: fewer steps, found by leaving some out."""

import time
from collections.abc import Callable, Sequence

from tests.simulation.replay import Replay


def shrink(replay: Replay, invariant: str, *, seconds: float) -> Replay:
    """Return the smallest run found within this time in which `invariant` is violated."""
    deadline = time.monotonic() + seconds

    def fails(steps: Sequence[int]) -> bool:
        outcome = Replay(replay.seed, replay.build, tuple(steps)).run()
        return any(each.invariant == invariant for each in outcome.violations)

    steps = list(replay.steps or (step.number for step in replay.plan().steps))
    if not fails(steps):
        return replay
    size = len(steps) // 2
    while size and time.monotonic() < deadline:
        steps, has_shrunk = _leave_out(steps, size, fails, deadline=deadline)
        if not has_shrunk:
            size //= 2
        size = min(size, len(steps) // 2)
    return Replay(replay.seed, replay.build, tuple(steps))


def _leave_out(
    steps: list[int],
    size: int,
    fails: Callable[[Sequence[int]], bool],
    *,
    deadline: float,
) -> tuple[list[int], bool]:
    """Leave out as many groups of `size` steps as possible; return what is left."""
    has_shrunk, start = False, 0
    while start < len(steps) and time.monotonic() < deadline:
        rest = steps[:start] + steps[start + size :]
        if rest and fails(rest):
            steps, has_shrunk = rest, True
        else:
            start += size
    return steps, has_shrunk
