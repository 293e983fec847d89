"""`sidegate analytics`: how many sessions there are, began and ended, and how long they lasted."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidegate.cli.options import load, with_config, with_output
from sidegate.cli.services import ask
from sidegate.cli.writing import as_card, as_json, as_table

if TYPE_CHECKING:
    from sidegate.core.analytics import Report
    from sidegate.runtime.container import Container
    from sidegate.web.schemas.analytics import AnalyticsDocument, WindowDocument


@click.command()
@with_config
@with_output
def analytics(config: Path | None, output: str) -> None:
    """Show how many sessions are active, and how many began and ended.

    The numbers are those of the last sample (analytics.interval); if one is due, it is taken now.

    \b
    Examples:
      sidegate analytics
      sidegate analytics -o json | jq .active.total
    """
    from sidegate.web.schemas.analytics import analytics_document

    report = ask(load(config), _sampled)
    if report is None:
        raise click.ClickException(
            "nobody has counted the sessions yet, but somebody has begun to.\nTry again soon."
        )
    document = analytics_document(report)
    click.echo(as_json(document) if output == "json" else _as_text(document))


async def _sampled(house: "Container") -> "Report | None":
    await house.analytics.sample()
    return await house.analytics.report()


def _as_text(document: "AnalyticsDocument") -> str:
    active, windows = document["active"], document["windows"]
    by_type = {f"  {type_}": count for type_, count in active["by_type"].items()}
    now = {"active": active["total"], **by_type, "users": active["users"]}
    columns = {
        "1h": _column(windows["1h"]),
        "24h": _column(windows["24h"]),
        "7d": _column(windows["7d"]),
    }
    rows = [{"": row} | {name: columns[name][row] for name in columns} for row in columns["1h"]]
    parts = (f"As of {document['as_of']}", as_card(now), as_table(("", *columns), rows))
    return "\n\n".join(parts)


def _column(window: "WindowDocument") -> dict[str, object]:
    """Return what happened in a window, from top to bottom."""
    created, ended, lasted = window["created"], window["ended"], window["duration"]
    return {
        "since": _minute(window["since"]),
        "most active": window["peak"]["active"],
        "  at": _minute(window["peak"]["at"]),
        "created": created["total"],
        **{f"  {type_}": count for type_, count in created["by_type"].items()},
        "ended": ended["total"],
        **{f"  {cause}": count for cause, count in ended["by_cause"].items()},
        "lasted, average": _span(lasted["average"]),
        "lasted, p50": _span(lasted["p50"]),
        "lasted, p95": _span(lasted["p95"]),
    }


def _minute(moment: str | None) -> str | None:
    return None if moment is None else f"{moment[:16].replace('T', ' ')}Z"


def _span(seconds: float | None) -> str | None:
    return None if seconds is None else str(timedelta(seconds=round(seconds)))
