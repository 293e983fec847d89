"""Logs: one line for each event on stdout, JSON for machines, and never a token in it.

Whoever has something to say uses the standard library's `logging`; what aiohttp, asyncio or redis
say comes out the same way.
"""

import json
import logging
import re
import sys
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["json", "console"]

# A token is followed by 56 characters, an API key and a lease by 43; what was cut off on the way is
# still most of a secret. One that is not ours is not worth keeping either.
_SECRET: Final = re.compile(r"sg[wmavskl]_[A-Za-z0-9_-]{24,}", re.ASCII)
# Line breaks would begin a line that looks like another event; the rest may steer a terminal.
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def configure(level: str, format_: Format, stream: TextIO | None = None) -> None:
    """Send everything logged in this process at `level` or above to `stream` (stdout).

    May be called again; the last call counts.
    """
    handler = _Handler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                _without_echo,
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
    # Others' debug lines would tell too much: aiosqlite spells every statement with its values.
    root.setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
    logging.getLogger("sidegate").setLevel(level.upper())
    logging.captureWarnings(capture=True)


def _without_echo(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop what another handler's formatter left on the record: the event again."""
    event.pop("message", None)
    return event


def _json() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,  # one text, without local variables
        structlog.processors.JSONRenderer(serializer=_serialize),
    ]


def _console(stream: TextIO) -> list[Processor]:
    return [
        _escaped,
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            # Not rich's, which would show local variables when it happens to be installed.
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _serialize(event: dict[str, Any], **options: Any) -> str:
    """Write JSON: the moment, the level, the logger and the event first, whatever else after."""
    first = ("timestamp", "level", "logger", "event")
    ordered = {key: event[key] for key in first if key in event} | event
    return json.dumps(ordered, **options, skipkeys=True)


def _escaped(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: value.translate(_CONTROL) if isinstance(value, str) and key not in _OWN else value
        for key, value in event.items()
    }


_OWN: Final = ("exception", "stack_info")  # of many lines by nature


def without_secrets(line: str) -> str:
    """Blank every token, API key and lease of a finished line, wherever in it they stand.

    Of a finished line, because there nothing is nested, lazy or hidden behind a repr any more, and
    neither JSON nor repr spells the characters of a token in another way.
    """
    return _SECRET.sub("[token]", line)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; of a record that cannot be written it tells where it came from."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record).encode("utf-8", "backslashreplace").decode()
        return without_secrets(line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # logging's own would print the message and its arguments to stderr, tokens and all.
        event = {
            "level": "error",
            "logger": __name__,
            "event": "a record cannot be written",
            "where": f"{record.name} {record.filename}:{record.lineno}",
        }
        try:
            self.stream.write(without_secrets(json.dumps(event)) + self.terminator)
            self.flush()
        except (OSError, ValueError):
            return  # stdout is gone, and with it whoever could be told
