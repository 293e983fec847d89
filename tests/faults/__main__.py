"""`./dev faults`: hurt a real deployment under load, and see whether every promise holds."""

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

from tests.faults.broken import BUILDS
from tests.faults.faults import FAULTS, Fault
from tests.faults.plan import Outcome, Plan
from tests.faults.report import MARKDOWN, PLAIN, Table, left_out, story
from tests.faults.run import run

# A thousand checks a second is 1. This much is about half of two cores, load and stores included.
_LOAD: Final = 0.3

# How much shorter what need not last is in a quick run.
_QUICK: Final = 0.5


def _numbers(_: click.Context, __: click.Parameter, text: str | None) -> frozenset[int]:
    """Read `2,5,6`."""
    known = {fault.number for fault in FAULTS}
    numbers = frozenset(
        int(word) if word.isdigit() else 0 for word in (text or "").split(",") if word
    )
    if not numbers <= known:
        raise click.BadParameter(f"name some of 1 to {max(known)}, with commas between them")
    return numbers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="The most telling ones, and shorter.")
@click.option("--only", metavar="N,…", callback=_numbers, help="Only these, by their numbers.")
@click.option("--seed", type=int, help="Of all that is random; printed, so that it can be given.")
@click.option(
    "--minutes", default=2.0, show_default=True, help="How long the random mix (33) goes on."
)
@click.option("--load", default=_LOAD, show_default=True, help="1 is a thousand checks a second.")
@click.option(
    "--broken",
    type=click.Choice(sorted(BUILDS)),
    help="Run a build that is broken on purpose, on the fault that shows it.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Write the table for the docs.")
@click.option("--history", type=click.Path(path_type=Path), help="Keep the history in this file.")
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
    """Hurt a real deployment under load, and see whether every promise holds (docs/faults.md).

    \b
    Examples:
      ./dev faults --quick                     the eleven most telling ones, in about four minutes
      ./dev faults --only 6,13                 two ways for Redis to bring back the dead
      ./dev faults --only 33 --minutes 10 --seed 7
      ./dev faults --broken fail-open          must be caught
      ./dev faults --markdown >table.md        all of them, as a table for the docs

    Exit codes: 0 every promise held; 1 one did not, or a fault was not really there; 2 misspelled.
    """
    plan = Plan(
        faults=_chosen(quick, only, broken),
        factor=load,
        seed=random.randrange(1_000_000) if seed is None else seed,
        scale=_QUICK if quick or broken else 1.0,
        minutes=minutes,
        broken=broken,
    )
    if broken is not None:
        plan = plan.small()
    started = time.monotonic()
    table = MARKDOWN if as_markdown else PLAIN
    outcome = _run(plan, history, started, table)
    click.echo(_conditions(outcome, plan, time.monotonic() - started), err=True)
    click.echo(story(outcome) or "every promise held")
    sys.exit(0 if outcome.well else 1)


def _chosen(quick: bool, only: frozenset[int], broken: str | None) -> Sequence[Fault]:
    if only:
        return [fault for fault in FAULTS if fault.number in only]
    if broken is not None:  # the one that shows it
        return [fault for fault in FAULTS if fault.number == BUILDS[broken].fault]
    return [fault for fault in FAULTS if fault.quick or not quick]


def _run(plan: Plan, history: Path | None, started: float, table: Table) -> Outcome:
    def progress(what: str) -> None:
        click.echo(f"[{time.monotonic() - started:4.0f} s] {what}", err=True)

    progress(f"seed {plan.seed}, {plan.factor * 1000:.0f} checks a second")
    click.echo(table.header())
    with TemporaryDirectory(prefix="sg-faults-") as directory:
        path = history or Path(directory) / "history.jsonl"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(plan, path, progress, lambda row: click.echo(table.line(row))))


def _conditions(outcome: Outcome, plan: Plan, seconds: float) -> str:
    """Say under which conditions it was measured."""
    waited = ", ".join(f"{who} {long:.1f} s" for who, long in sorted(outcome.stalled.items()))
    return (
        f"{seconds:.0f} s, seed {plan.seed}, {plan.factor * 1000:.0f} checks a second, "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n"
        f"waited for the CPU: {waited or 'nobody'}; "
        f"left out of the figures for that: {left_out(outcome)} of the requests"
    )


if __name__ == "__main__":
    main()
