"""Command line of the simulation: `./dev simulate`."""

import random
import sys
import time
from collections.abc import Iterator
from itertools import count
from typing import Final

import click

from tests.simulation.broken_builds import BUILDS
from tests.simulation.replay import BadToken, Replay
from tests.simulation.search import Search, search
from tests.simulation.shrinking import shrink
from tests.simulation.timeline import format_timeline, format_violations

_MINUTES: Final = 1.0
_MINUTES_FOR_A_BUILD: Final = 10.0
_SHRINKING_SECONDS: Final = 90.0
_PROGRESS_SECONDS: Final = 10.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(min=1), help="Simulate so many seeds.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Simulate fresh seeds for so long.  [default: 1; with --broken 10]",
)
@click.option("--first", type=click.IntRange(min=0), help="The first seed; by default a fresh one.")
@click.option("--replay", metavar="TOKEN", help="Repeat the run of a token, with its time line.")
@click.option(
    "--broken",
    type=click.Choice(sorted(BUILDS)),
    help="Simulate a build with an injected bug, until it is found.",
)
@click.option("--all", "goes_on", is_flag=True, help="Go on after a failure.")
def main(
    seeds: int | None,
    minutes: float | None,
    first: int | None,
    replay: str | None,
    broken: str | None,
    goes_on: bool,
) -> None:
    """Simulate three instances and their stores in virtual time, and check the invariants.

    \b
    Examples:
      ./dev simulate                           fresh seeds, for a minute
      ./dev simulate --minutes 60 --all        a long search
      ./dev simulate --first 7 --seeds 1       one seed
      ./dev simulate --replay s1-eNqL...       a run that has failed, with its time line
      ./dev simulate --broken fill-unsealed    a build with an injected bug: must be found

    Each seed decides everything: the requests, the faults, and the order of all steps. A failure is
    shrunk to the steps that it needs, and printed with a token that repeats it. docs/faults.md says
    what is covered.

    Exit codes: 0, every invariant held; 1, an invariant was violated; 2, invalid arguments.
    """
    if replay is not None:
        sys.exit(_replay(replay))
    if minutes is None and seeds is None:
        minutes = _MINUTES if broken is None else _MINUTES_FOR_A_BUILD
    start = random.randrange(10**9) if first is None else first
    click.echo(f"seeds from {start}" + ("" if broken is None else f", build {broken}"))
    deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    result = search(
        _list_seeds(start, seeds),
        build=broken,
        is_time_left=lambda: time.monotonic() < deadline,
        stop_after=sys.maxsize if goes_on else 1,
        on_run=_Progress(),
    )
    _report(result, start)
    sys.exit(1 if result.found else 0)


def _list_seeds(start: int, number: int | None) -> Iterator[str]:
    return map(str, count(start) if number is None else range(start, start + number))


class _Progress:
    """Prints now and then what was done."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, result: Search) -> None:
        if time.monotonic() >= self._next:
            self._next += _PROGRESS_SECONDS
            click.echo(_format_progress(result), err=True)


def _format_progress(result: Search) -> str:
    return (
        f"{len(result.seeds)} seeds, {result.seconds:.0f} s simulated"
        f" ({result.seconds_per_minute:.0f} s a minute), {len(result.found)} failed"
    )


def _report(result: Search, start: int) -> None:
    for replay, outcome in result.found:
        invariant = outcome.violations[0].invariant
        click.echo(f"\nseed {replay.seed}:\n{format_violations(outcome.violations)}")
        small = shrink(replay, invariant, seconds=_SHRINKING_SECONDS)
        shrunk = small.run()
        click.echo(f"\nshrunk to {len(small.plan().steps)} steps:\n{format_timeline(shrunk)}")
        click.echo(f"{format_violations(shrunk.violations)}\n\n--replay {small.format()}")
    last = start + len(result.seeds) - 1
    click.echo(f"seeds {start} to {last}: {_format_progress(result)}")
    if not result.found:
        click.echo("every invariant held")


def _replay(token: str) -> int:
    try:
        outcome = Replay.parse(token).run()
    except BadToken as error:
        raise click.BadParameter(str(error), param_hint="--replay") from None
    click.echo(format_timeline(outcome))
    click.echo(format_violations(outcome.violations) or "every invariant held")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    main()
