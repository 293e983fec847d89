"""Logs: one line for each event on stdout, as JSON or for a console, and never with a token.

Every module logs through the standard library's `logging`. Records of aiohttp, asyncio and redis
are formatted in the same way. A line is formatted where it is logged, and written by a thread: the
event loop never waits for the reader of the log. log_writer.py has the queue between them.
"""

import atexit
import json
import logging
import re
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sidegate.observability.log_writer import (
    LogWriter,
    Send,
    log_dropped_lines,
    send_to_descriptor,
)

Format = Literal["json", "console"]

# 56 characters follow the prefix of a token, 43 that of an API key or a lease. A truncated one is
# still most of a secret. Text that only looks like a token is redacted, too.
_SECRET: Final = re.compile(r"sg[wmavskl]_[A-Za-z0-9_-]{24,}", re.ASCII)
# Line breaks would forge another event; other control characters may control a terminal.
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}

# Seconds that a process that ends waits for its last lines to be read.
FLUSH_TIMEOUT: Final = 1.0


def configure(level: str, format_: Format, stream: TextIO | None = None) -> None:
    """Write every record of this process at `level` or above to `stream` (stdout).

    Another call replaces the configuration. Nothing waits for `stream`, not even this call.
    """
    stream = stream or sys.stdout
    _writer.send_to(_build_send(stream))
    handler = _Handler()
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
                *(_console(stream) if format_ == "console" else _json()),
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


def flush(timeout: float = FLUSH_TIMEOUT) -> bool:
    """Wait until what was logged is written, at most `timeout` seconds. Return whether it was."""
    return _writer.flush(timeout)


def dropped_lines() -> Mapping[str, int]:
    """Return the number of lines that were not written: the queue was `full`, or it `failed`."""
    return _writer.dropped


def _build_send(stream: TextIO) -> Send:
    """Return what writes to a stream: to its descriptor, because its buffer has a lock.

    Python ends with an error if a thread that is stuck in a write holds that lock.
    """
    try:
        return send_to_descriptor(stream.fileno())
    except (OSError, ValueError):  # in memory, or closed
        return partial(_send_to_stream, stream)


def _send_to_stream(stream: TextIO, data: bytes) -> int:
    stream.write(data.decode())
    stream.flush()
    return len(data)


_writer: Final = LogWriter(len, on_recovered=log_dropped_lines)  # until `configure`: discards
# Not in the handler's flush, which logging calls at the end with the lock that the report needs.
atexit.register(flush)


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


class _Handler(logging.Handler):
    """Queues redacted lines. For a record that cannot be formatted it queues its origin."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_secrets(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  # of any value that is to be formatted
            self.handleError(record)
        else:
            _put(line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # The handler of logging would print the arguments to stderr, including tokens.
        event = {
            "level": "error",
            "logger": __name__,
            "event": "log record not written",
            "where": f"{record.name} {record.filename}:{record.lineno}",
        }
        _put(redact_secrets(json.dumps(event)))


def _put(line: str) -> None:
    _writer.put(line.encode("utf-8", "backslashreplace") + b"\n")
