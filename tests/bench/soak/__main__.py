"""The command line of the soak test: `./dev soak`."""

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import click

from tests.bench.cores import Cores
from tests.bench.environment import Environment
from tests.bench.errors import NotMeasurable, UnexpectedResponses
from tests.bench.soak.growth import Growth, find_new_series, measure_growth
from tests.bench.soak.load import Load
from tests.bench.soak.sample import Sample, take_sample
from tests.support.processes import ServerFailed

_SAMPLES: Final = 60
_MIN_INTERVAL: Final = 1.0

# Sessions that long, so that as many end as begin long before the second half.
_LIFETIME_SHARE: Final = 1 / 6
_MIN_LIFETIME: Final = 10.0

_EPILOG = """
\b
Exit codes: 0, all growth is explained; 1, a resource has grown more; 2, the test failed.
"""


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option(
    "--minutes", default=12.0, show_default=True, type=click.FloatRange(min=0.2), help="Duration."
)
def main(minutes: float) -> None:
    """Check, create, refresh and revoke sessions for some minutes, far below saturation.

    Memory, file descriptors, Redis keys and metric series may not grow beyond what the settings and
    the sessions explain.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all servers are stopped
    try:
        samples = run(minutes * 60)
    except (NotMeasurable, UnexpectedResponses, ServerFailed) as error:
        click.echo(error, err=True)
        sys.exit(2)
    growth = measure_growth(samples)
    click.echo("\n" + format_growth(growth))
    for name in find_new_series(samples):
        click.echo(f"new series: {name}")
    sys.exit(int(not all(each.is_explained for each in growth)))


def run(seconds: float) -> list[Sample]:
    """Run the load for so many seconds, print each sample, and return all of them."""
    cores = Cores.detect()
    cores.avoid_server_core()
    with ExitStack() as stack:
        environment = Environment(stack, cores, lambda message: click.echo(message, err=True))
        return asyncio.run(_run(environment, seconds))


async def _run(environment: Environment, seconds: float) -> list[Sample]:
    lifetime = max(seconds * _LIFETIME_SHARE, _MIN_LIFETIME)
    database = await asyncio.to_thread(environment.get_database, "soaked", sessions=0)
    settings = {
        "SIDEGATE_SESSIONS__WEB__LIFETIME": f"{lifetime:.0f}s",
        "SIDEGATE_SESSIONS__WEB__GRACE": "1s",
        "SIDEGATE_CLEANUP__INTERVAL": "10s",
        "SIDEGATE_CLEANUP__RETENTION": "0s",
    }
    sidegate = await asyncio.to_thread(
        environment.get_instance, "soaked", database, settings=settings
    )
    load, samples = Load(sidegate, lifetime=int(lifetime), now=time.monotonic), []
    start, interval = time.monotonic(), max(seconds / _SAMPLES, _MIN_INTERVAL)
    click.echo(_HEAD)
    async with load.running():
        for due in range(1, int(seconds / interval) + 1):
            await asyncio.sleep(start + due * interval - time.monotonic())
            at = time.monotonic() - start
            samples.append(
                await asyncio.to_thread(take_sample, at, load, sidegate, environment.redis)
            )
            click.echo(_format_sample(samples[-1]))
    load.verify()
    return samples


_COLUMNS: Final = (
    "time",
    "requests",
    "live",
    "tokens",
    "resident MB",
    "cached MB",
    "descriptors",
    "Redis keys",
    "Redis MB",
    "series",
)
_HEAD: Final = "  ".join(name.rjust(8) for name in _COLUMNS)


def _format_sample(sample: Sample) -> str:
    minutes, seconds = divmod(int(sample.at), 60)
    cells = (
        f"{minutes}:{seconds:02}",
        f"{sample.requests:,}",
        f"{sample.live:,}",
        f"{sample.issued:,}",
        f"{sample.resident / 1e6:.1f}",
        f"{sample.cached / 1e6:.2f}",
        f"{sample.descriptors}",
        f"{sample.redis_keys:,}",
        f"{sample.redis_memory / 1e6:.2f}",
        f"{len(sample.series)}",
    )
    return "  ".join(
        cell.rjust(max(8, len(name))) for cell, name in zip(cells, _COLUMNS, strict=True)
    )


def format_growth(growth: Sequence[Growth]) -> str:
    """Return the table of what grew in the second half."""
    rows = [
        ("in the second half", "mean", "growth", "explained", "allowed", ""),
        *map(_row, growth),
    ]
    return "\n".join(
        f"{name:20}  {mean:>9}  {grown:>9}  {explained:>9}  {allowed:>9}  {verdict}".rstrip()
        for name, mean, grown, explained, allowed, verdict in rows
    )


def _row(growth: Growth) -> tuple[str, str, str, str, str, str]:
    values = (growth.mean, growth.growth, growth.explained, growth.allowed)
    mean, grown, explained, allowed = (f"{each / growth.resource.unit:,.2f}" for each in values)
    verdict = "explained" if growth.is_explained else "NOT EXPLAINED"
    return growth.resource.name, mean, grown, explained, allowed, verdict


if __name__ == "__main__":
    main()
