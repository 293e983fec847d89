"""Logs: one line for each event on stdout, as JSON or for a console, and never with a token.

Every module logs through the standard library's `logging`. Records of aiohttp, asyncio and redis
are formatted in the same way.
"""

import json
import logging
import re
import sys
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["json", "console"]

# 56 characters follow the prefix of a token, 43 that of an API key or a lease. A truncated one is
# still most of a secret. Text that only looks like a token is redacted, too.
_SECRET: Final = re.compile(r"sg[wmavskl]_[A-Za-z0-9_-]{24,}", re.ASCII)
# Line breaks would forge another event; other control characters may control a terminal.
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def configure(level: str, format_: Format, stream: TextIO | None = None) -> None:
    """Write every record of this process at `level` or above to `stream` (stdout).

    Another call replaces the configuration.
    """
    handler = _Handler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                _drop_message,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console(handler.stream) if format_ == "console" else _json()),
            ],
        )
    )
    root = logging.getLogger()
    for old in [*root.handlers]:
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    # Debug records of libraries hold secrets: aiosqlite logs statements with their values.
    root.setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
    logging.getLogger("sidegate").setLevel(level.upper())
    logging.captureWarnings(capture=True)


def _drop_message(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop the copy of the event that another handler's formatter left on the record."""
    event.pop("message", None)
    return event


def _json() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,  # a string, without local variables
        structlog.processors.JSONRenderer(serializer=_serialize),
    ]


def _console(stream: TextIO) -> list[Processor]:
    return [
        _escape_control_characters,
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            # Not that of rich, which would show local variables if it is installed.
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _serialize(event: dict[str, Any], **options: Any) -> str:
    """Return JSON with timestamp, level, logger and event first, and other fields after them."""
    first = ("timestamp", "level", "logger", "event")
    ordered = {key: event[key] for key in first if key in event} | event
    return json.dumps(ordered, **options, skipkeys=True)


def _escape_control_characters(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: value.translate(_CONTROL)
        if isinstance(value, str) and key not in _MULTILINE
        else value
        for key, value in event.items()
    }


_MULTILINE: Final = ("exception", "stack_info")


def redact_secrets(line: str) -> str:
    """Replace every token, API key and lease in a formatted line.

    In a formatted line nothing is nested, lazy or behind a repr, and neither JSON nor repr escapes
    the characters of a token.
    """
    return _SECRET.sub("[token]", line)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes redacted lines. For a record that cannot be formatted it writes its origin."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record).encode("utf-8", "backslashreplace").decode()
        return redact_secrets(line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # The handler of logging would print the arguments to stderr, including tokens.
        event = {
            "level": "error",
            "logger": __name__,
            "event": "log record not written",
            "where": f"{record.name} {record.filename}:{record.lineno}",
        }
        try:
            self.stream.write(redact_secrets(json.dumps(event)) + self.terminator)
            self.flush()
        except (OSError, ValueError):
            return  # stdout is closed: there is no place to report it
