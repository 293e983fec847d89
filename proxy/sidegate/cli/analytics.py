"""`sidegate analytics`: active sessions, sessions created and ended, and their durations."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidegate.cli.command import TryAgainLater, config_option, load_settings
from sidegate.cli.output import format_json, format_record, format_table, output_option
from sidegate.cli.services import run_with_services

if TYPE_CHECKING:
    from sidegate.core.analytics import Report
    from sidegate.runtime.container import Container
    from sidegate.web.schemas.analytics import AnalyticsDocument, WindowDocument


@click.command()
@config_option
@output_option
def analytics(config: Path | None, output: str) -> None:
    """Show how many sessions are active, and how many were created and ended.

    The numbers are of the last sample (analytics.interval). If a sample is due, it is taken now.

    \b
    Examples:
      sidegate analytics
      sidegate analytics -o json | jq .active.total
    """
    from sidegate.web.schemas.analytics import build_analytics_document

    report = run_with_services(load_settings(config), _take_report)
    if report is None:
        raise TryAgainLater(
            "there is no sample yet; another instance is taking the first one.\nTry again soon."
        )
    document = build_analytics_document(report)
    click.echo(format_json(document) if output == "json" else _format_text(document))


async def _take_report(container: "Container") -> "Report | None":
    await container.analytics.sample()
    return await container.analytics.read_report()


def _format_text(document: "AnalyticsDocument") -> str:
    active, windows = document["active"], document["windows"]
    by_type = {f"  {type_}": count for type_, count in active["by_type"].items()}
    present = {"active": active["total"], **by_type, "users": active["users"]}
    columns = {
        "1h": _build_column(windows["1h"]),
        "24h": _build_column(windows["24h"]),
        "7d": _build_column(windows["7d"]),
    }
    rows = [{"": row} | {name: columns[name][row] for name in columns} for row in columns["1h"]]
    sections = (
        f"As of {document['as_of']}",
        format_record(present),
        format_table(("", *columns), rows),
    )
    return "\n\n".join(sections)


def _build_column(window: "WindowDocument") -> dict[str, object]:
    """Return the cells of a window's column, from top to bottom."""
    created, ended, duration = window["created"], window["ended"], window["duration"]
    return {
        "since": _format_minute(window["since"]),
        "most active": window["peak"]["active"],
        "  at": _format_minute(window["peak"]["at"]),
        "created": created["total"],
        **{f"  {type_}": count for type_, count in created["by_type"].items()},
        "ended": ended["total"],
        **{f"  {cause}": count for cause, count in ended["by_cause"].items()},
        "duration, average": _format_duration(duration["average"]),
        "duration, p50": _format_duration(duration["p50"]),
        "duration, p95": _format_duration(duration["p95"]),
    }


def _format_minute(time: str | None) -> str | None:
    return None if time is None else f"{time[:16].replace('T', ' ')}Z"


def _format_duration(seconds: float | None) -> str | None:
    return None if seconds is None else str(timedelta(seconds=round(seconds)))
