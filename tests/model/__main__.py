"""The command line of the model: `python -m tests.model`."""

import random
import sys
import time
from typing import Final

import click

from tests.model.protocol import ELEMENTS, Protocol
from tests.model.walks import find_breach

# Seconds between two lines of progress.
_REPORT_INTERVAL: Final = 30.0

_EPILOG: Final = """
\b
Examples:
  python -m tests.model                            walk for five minutes, with two instances
  python -m tests.model --minutes 60 --seed 7      for an hour, along other walks
  python -m tests.model --instances 1              with one instance
  python -m tests.model --without compares_order   show what an element prevents
\b
Exit codes: 0, no breach was found; 1, one was, and its steps are printed.
"""


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option("--minutes", type=click.FloatRange(min=0), default=5.0, show_default=True)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="The same seed, the same walks."
)
@click.option("--instances", type=click.IntRange(1, 2), default=2, show_default=True)
@click.option(
    "--without",
    "left_out",
    type=click.Choice(ELEMENTS),
    multiple=True,
    metavar="ELEMENT",
    help="Leave out an element of the protocol (tests/model/protocol.py has them all).",
)
def main(minutes: float, *, seed: int, instances: int, left_out: tuple[str, ...]) -> None:
    """Walk at random through the model of trust in Redis, and look for a breach.

    In a breach an instance allows a token that the database has refused for too long. Progress
    goes to stderr.
    """
    protocol = Protocol()
    for name in left_out:
        protocol = protocol.without(name)
    limit = _Limit(minutes * 60)
    found = find_breach(
        protocol,
        instances=instances,
        chance=random.Random(seed),
        may_go_on=limit.may_go_on,
    )
    if found is None:
        click.echo(f"no breach in {limit.walks} walks")
        return
    for number, label in enumerate(found.labels, 1):
        click.echo(f"{number:3}  {label}")
    click.echo(f"     {found.found}")
    sys.exit(1)


class _Limit:
    """Says whether the time is not over, and reports progress."""

    def __init__(self, seconds: float) -> None:
        self.walks = 0
        self._start = time.monotonic()
        self._seconds = seconds
        self._next_report = _REPORT_INTERVAL

    def may_go_on(self, walks: int) -> bool:
        self.walks = walks
        elapsed = time.monotonic() - self._start
        if elapsed >= self._next_report:
            minutes, rest = divmod(int(elapsed), 60)
            click.echo(f"{minutes:3}:{rest:02}  {walks} walks", err=True)
            self._next_report += _REPORT_INTERVAL
        return elapsed < self._seconds


if __name__ == "__main__":
    main()
