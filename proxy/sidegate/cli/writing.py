"""What commands print: JSON for programs, tables for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sidegate.core.session import SessionRecord


def as_json(document: object) -> str:
    """Write for programs."""
    return json.dumps(document, indent=2)


def as_card(document: Mapping[str, Any]) -> str:
    """Write one thing, a line for each of its facts."""
    width = max(map(len, document))
    return "\n".join(f"{name:<{width}}  {_cell(value)}" for name, value in document.items())


def as_table(columns: Sequence[str], documents: Iterable[Mapping[str, Any]]) -> str:
    """Write many things, a line each under a line of heads."""
    rows = [columns, *([_cell(document[name]) for name in columns] for document in documents)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case str():
            # What a client named itself must not steer the operator's terminal.
            return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value) or "-"
        case list():
            return " ".join(map(_cell, value)) or "-"
        case _:
            return json.dumps(value)


def document_of(record: "SessionRecord") -> Mapping[str, Any]:
    """Return a session as the API shows it now."""
    from sidegate.web.schemas.documents import session_document

    return session_document(record, datetime.now(UTC))


def print_session(record: "SessionRecord | None", output: str) -> None:
    """Print a session; a ClickException where there is none."""
    if record is None:
        raise click.ClickException(
            "no session has this id.\n`sidegate session list USER` shows a user's."
        )
    document = document_of(record)
    click.echo(as_json(document) if output == "json" else as_card(document))
