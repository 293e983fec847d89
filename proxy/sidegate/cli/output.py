"""Format the output of commands: JSON for programs, tables for people."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sidegate.core.session import SessionRecord

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(command: Command) -> Command:
    """Add `-o json|table`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["json", "table"]),
        default="table",
        show_default=True,
        help="json for programs, table for people.",
    )(command)


def format_json(document: object) -> str:
    """Return indented JSON."""
    return json.dumps(document, indent=2)


def format_record(document: Mapping[str, Any]) -> str:
    """Return one line for each member: its name and its value."""
    width = max(map(len, document))
    return "\n".join(f"{name:<{width}}  {_format_cell(value)}" for name, value in document.items())


def format_table(columns: Sequence[str], documents: Iterable[Mapping[str, Any]]) -> str:
    """Return a header line, and one line for each document."""
    rows = [
        columns,
        *([_format_cell(document[name]) for name in columns] for document in documents),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _format_cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case str():
            # A client chose this text: its control characters must not reach the terminal.
            return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value) or "-"
        case list():
            return " ".join(map(_format_cell, value)) or "-"
        case _:
            return json.dumps(value)


def build_document(record: "SessionRecord", at: datetime) -> Mapping[str, Any]:
    """Return a session at this time as the admin API returns it."""
    from sidegate.web.schemas.documents import build_session_document

    return build_session_document(record, at)


def print_session(record: "SessionRecord | None", at: datetime, *, output: str) -> None:
    """Print a session at this time. Raise ClickException if there is none."""
    if record is None:
        raise click.ClickException(
            "no session has this id.\n`sidegate session list USER` lists those of a user."
        )
    document = build_document(record, at)
    click.echo(format_json(document) if output == "json" else format_record(document))
