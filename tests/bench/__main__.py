"""The command line of the benchmark: `./dev bench`."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tests.bench import machine, report
from tests.bench.catalogue import all_names, goals_about, with_references
from tests.bench.effort import FULL, QUICK
from tests.bench.errors import NotMeasurable, UnexpectedResponses
from tests.bench.goals import evaluate
from tests.bench.plot import draw
from tests.bench.profile import format_table, profile_hit
from tests.bench.run import run
from tests.support.processes import ServerFailed
from tests.support.sidegate import ROOT

CHART = ROOT / "docs/performance.png"

_EPILOG = """
\b
Examples:
  ./dev bench                          all benchmarks, in about fifteen minutes
  ./dev bench --quick                  rough figures
  ./dev bench --only local,redis       these two and their references
  ./dev bench --only tails             latencies at rates below and above the highest
  ./dev bench --markdown >table.md     the tables for docs/performance.md
  ./dev bench --profile                the time of a memory hit by function
\b
Exit codes: 0, no measured goal is missed; 1, a goal is missed; 2, the measurement failed.
"""


def _parse_names(_: click.Context, __: click.Parameter, given: str | None) -> set[str]:
    if given is None:
        return set(all_names())
    try:
        return with_references([name.strip() for name in given.split(",")])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds: rough figures.")
@click.option(
    "--only",
    "names",
    callback=_parse_names,
    metavar="NAME,...",
    help="Only these metrics and their references.",
)
@click.option(
    "--json", "output_format", flag_value="json", help="All values of all rounds, as JSON."
)
@click.option(
    "--markdown", "output_format", flag_value="markdown", help="Tables for docs/performance.md."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Path of the chart. By default a full run writes docs/performance.png.",
)
@click.option("--profile", is_flag=True, help="Only time the functions of a memory hit.")
def main(
    quick: bool, names: set[str], output_format: str | None, plot: Path | None, profile: bool
) -> None:
    """Measure Sidegate and the references in turn, and compare the results with the goals.

    No other programs should run on the machine meanwhile. Progress goes to stderr.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all servers are stopped
    if profile:
        click.echo(format_table(asyncio.run(profile_hit())))
        return
    facts, effort = machine.describe(), QUICK if quick else FULL
    try:
        results = run(names, effort, _make_progress())
    except (NotMeasurable, UnexpectedResponses, ServerFailed) as error:
        click.echo(error, err=True)
        sys.exit(2)
    goals = goals_about(names | results.measured.keys(), effort.tail_sessions)
    outcomes = evaluate(goals, results.series())
    click.echo(_FORMATS[output_format](results, outcomes, facts))
    chart = plot or (None if quick or names < set(all_names()) else CHART)
    if chart is not None:
        draw(results, outcomes, chart)
        click.echo(f"chart written to {chart}", err=True)
    sys.exit(int(any(outcome.met is False for outcome in outcomes)))


def _format_json(*arguments: Any) -> str:
    return json.dumps(report.build_document(*arguments), indent=2)


_FORMATS = {None: report.format_text, "markdown": report.format_markdown, "json": _format_json}


def _make_progress() -> Callable[[str], None]:
    """Return a function that prints progress with the elapsed time."""
    start = time.monotonic()

    def report_progress(message: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        click.echo(f"{minutes:3}:{seconds:02}  {message}", err=True)

    return report_progress


if __name__ == "__main__":
    main()
