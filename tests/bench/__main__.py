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
from tests.bench.catalogue import concerned_goals, things, with_partners
from tests.bench.effort import QUICK, WHOLE
from tests.bench.errors import NotMeasurable, WrongAnswers
from tests.bench.goals import judged
from tests.bench.plot import draw
from tests.bench.profile import profiled, table
from tests.bench.run import run
from tests.support.processes import ServerDied
from tests.support.sidegate import ROOT

PICTURE = ROOT / "docs/performance.png"

_EPILOG = """
\b
Examples:
  ./dev bench                          everything: about ten minutes
  ./dev bench --quick                  a first impression
  ./dev bench --only local,redis       these two, and what they are compared with
  ./dev bench --markdown >table.md     the tables for docs/performance.md
  ./dev bench --profile                where the time of a hit in memory goes
\b
Exit status: 0, no goal that was measured is missed; 1, one is; 2, there are no true figures.
"""


def _names(_: click.Context, __: click.Parameter, given: str | None) -> set[str]:
    if given is None:
        return _everything()
    try:
        return with_partners([name.strip() for name in given.split(",")])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds: figures are rough.")
@click.option(
    "--only",
    "names",
    callback=_names,
    metavar="NAME,...",
    help="A part, and what it is compared with.",
)
@click.option(
    "--json", "shape", flag_value="json", help="Every value of every round, for programs."
)
@click.option("--markdown", "shape", flag_value="markdown", help="Tables for docs/performance.md.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the picture goes. By default a whole run writes docs/performance.png.",
)
@click.option("--profile", is_flag=True, help="Time the functions of a hit, and nothing else.")
def main(quick: bool, names: set[str], shape: str | None, plot: Path | None, profile: bool) -> None:
    """Measure Sidegate's roads and the references in turn, and compare them with the goals.

    Nothing else should run on the machine meanwhile. Progress goes to stderr.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped
    if profile:
        click.echo(table(asyncio.run(profiled())))
        return
    facts = machine.described()
    try:
        findings = run(names, QUICK if quick else WHOLE, _progress())
    except (NotMeasurable, WrongAnswers, ServerDied) as error:
        click.echo(error, err=True)
        sys.exit(2)
    outcomes = judged(concerned_goals(names | findings.measured.keys()), findings.series())
    click.echo(_SHAPES[shape](findings, outcomes, facts))
    picture = plot or (None if quick or names < _everything() else PICTURE)
    if picture is not None:
        draw(findings, outcomes, picture)
        click.echo(f"the picture is in {picture}", err=True)
    sys.exit(int(any(outcome.met is False for outcome in outcomes)))


def _everything() -> set[str]:
    return {thing.name for thing in things()}


def _as_json(*everything: Any) -> str:
    return json.dumps(report.document(*everything), indent=2)


_SHAPES = {None: report.text, "markdown": report.markdown, "json": _as_json}


def _progress() -> Callable[[str], None]:
    """Return who tells how far we are, and since when."""
    start = time.monotonic()

    def say(what: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        click.echo(f"{minutes:3}:{seconds:02}  {what}", err=True)

    return say


if __name__ == "__main__":
    main()
