"""Command line of the fault rig: `./dev faults`."""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import uvloop

from tests.faults.broken_builds import BUILDS
from tests.faults.faults import FAULTS, Fault
from tests.faults.plan import Outcome, Plan
from tests.faults.report import MARKDOWN, PLAIN, Table, format_excluded_share, format_failures
from tests.faults.run import run

# 1 is a thousand checks a second. 0.3 uses about half of two cores, load and stores included.
_DEFAULT_LOAD: Final = 0.3

# Factor on the durations of faults in a quick run, where they may be shorter.
_QUICK_TIME_SCALE: Final = 0.5


def _parse_numbers(_: click.Context, __: click.Parameter, text: str | None) -> frozenset[int]:
    """Parse fault numbers such as `2,5,6`."""
    valid = {fault.number for fault in FAULTS}
    numbers = frozenset(
        int(word) if word.isdigit() else 0 for word in (text or "").split(",") if word
    )
    if not numbers <= valid:
        raise click.BadParameter(
            f"expected fault numbers from 1 to {max(valid)} of the table, separated by commas"
        )
    return numbers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Run a selection of faults, each for a shorter time.")
@click.option(
    "--only", metavar="N,…", callback=_parse_numbers, help="Run only the faults with these numbers."
)
@click.option("--seed", type=int, help="Seed of the random generator; each run prints its seed.")
@click.option(
    "--minutes", default=2.0, show_default=True, help="Duration of the random mix (fault 33)."
)
@click.option(
    "--load",
    default=_DEFAULT_LOAD,
    show_default=True,
    help="Load factor: 1 is a thousand checks a second.",
)
@click.option(
    "--broken",
    type=click.Choice(sorted(BUILDS)),
    help="Run a build with an injected bug, with the fault that exposes it.",
)
@click.option(
    "--markdown", "as_markdown", is_flag=True, help="Print the table as Markdown, for the docs."
)
@click.option(
    "--history",
    type=click.Path(path_type=Path),
    help="Write the history of operations to this file.",
)
def main(
    quick: bool,
    only: frozenset[int],
    seed: int | None,
    minutes: float,
    load: float,
    broken: str | None,
    as_markdown: bool,
    history: Path | None,
) -> None:
    """Inject faults into a real deployment under load and check its invariants (docs/faults.md).

    \b
    Examples:
      ./dev faults --quick                     a selection of fourteen, in about five minutes
      ./dev faults --only 6,13                 two faults in which Redis loses revocations
      ./dev faults --only 33 --minutes 10 --seed 7
      ./dev faults --broken fail-open          a build with an injected bug: must be detected
      ./dev faults --markdown >table.md        all faults, as a table for the docs

    Exit codes: 0, every invariant held; 1, an invariant was violated or a fault had no effect;
    2, invalid arguments.
    """
    plan = Plan(
        faults=_select_faults(quick, only, broken),
        load_factor=load,
        seed=random.randrange(1_000_000) if seed is None else seed,
        time_scale=_QUICK_TIME_SCALE if quick or broken else 1.0,
        minutes=minutes,
        broken_build=broken,
    )
    if broken is not None:
        plan = plan.reduced()
    started = time.monotonic()
    table = MARKDOWN if as_markdown else PLAIN
    outcome = _run(plan, history, started, table)
    click.echo(_format_conditions(outcome, plan, time.monotonic() - started), err=True)
    click.echo(format_failures(outcome) or "every invariant held")
    sys.exit(0 if outcome.passed else 1)


def _select_faults(quick: bool, only: frozenset[int], broken: str | None) -> Sequence[Fault]:
    if only:
        return [fault for fault in FAULTS if fault.number in only]
    if broken is not None:  # the fault that exposes the bug
        build = BUILDS[broken]
        episodes = None if build.episode is None else (build.episode,)
        return [fault.only(episodes) for fault in FAULTS if fault.number == build.fault]
    if quick:
        return [fault.only(fault.quick_episodes) for fault in FAULTS if fault.quick]
    return FAULTS


def _run(plan: Plan, history: Path | None, started: float, table: Table) -> Outcome:
    def progress(step: str) -> None:
        click.echo(f"[{time.monotonic() - started:4.0f} s] {step}", err=True)

    progress(f"seed {plan.seed}, {plan.load_factor * 1000:.0f} checks a second")
    click.echo(table.header())
    with TemporaryDirectory(prefix="sg-faults-") as directory:
        path = history or Path(directory) / "history.jsonl"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(plan, path, progress, lambda row: click.echo(table.line(row))))


def _format_conditions(outcome: Outcome, plan: Plan, seconds: float) -> str:
    """Return the conditions of the run: duration, seed, load, CPU waits."""
    waits = ", ".join(
        f"{process} {waited:.1f} s" for process, waited in sorted(outcome.cpu_wait_seconds.items())
    )
    return (
        f"{seconds:.0f} s, seed {plan.seed}, {plan.load_factor * 1000:.0f} checks a second, "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n"
        f"time waiting for the CPU: {waits or 'none'}; "
        f"requests excluded from the figures for that: {format_excluded_share(outcome)}"
    )


if __name__ == "__main__":
    main()
