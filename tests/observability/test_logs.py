"""Log lines: one JSON object for each event, from every logger, without secrets."""

import asyncio
import errno
import json
import logging
import os
import warnings
from datetime import datetime
from io import StringIO
from typing import Any

import pytest

from sidegate.core.lock import Lease
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.observability import logs

TOKEN = KeyRing([TokenKey.generate()]).mint(SessionType.WEB).text
API_KEY = "sgk_" + "aB3-_" * 8 + "xyz"
LEASE = Lease.mint().text


class LogStream(StringIO):
    """Collects log lines."""

    def getvalue(self) -> str:
        """Return what was logged so far: a thread writes it."""
        assert logs.flush(timeout=10)
        return super().getvalue()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


class FullStream(LogStream):
    """Refuses what is written while `is_full`."""

    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


@pytest.fixture
def stream() -> LogStream:
    report_lines_dropped_before()
    stream = LogStream()
    logs.configure("info", "json", stream)
    return stream


@pytest.fixture
def console() -> LogStream:
    report_lines_dropped_before()
    stream = LogStream()
    logs.configure("info", "console", stream)
    return stream


def report_lines_dropped_before() -> None:
    """Let the writer report what earlier tests have lost, which it does once for a process."""
    logs.configure("info", "json", LogStream())
    logging.getLogger("sidegate").info("settled")
    assert logs.flush(timeout=10)


def raised(text: str) -> Exception:
    try:
        local_variable = "a local variable"
        raise ValueError(text, len(local_variable))
    except ValueError as error:
        return error


def test_event_is_a_line_with_timestamp_level_logger_and_extra_fields(
    stream: LogStream,
) -> None:
    logging.getLogger("sidegate.web").warning("%s open", "gate", extra={"address": "[::1]:1"})

    line = stream.line()
    timestamp = datetime.fromisoformat(line.pop("timestamp"))
    assert line == {
        "level": "warning",
        "logger": "sidegate.web",
        "event": "gate open",
        "address": "[::1]:1",
    }
    assert timestamp.utcoffset() is not None
    assert stream.getvalue().split('"')[3].endswith("Z")


def test_record_below_the_level_is_not_written(stream: LogStream) -> None:
    logging.getLogger("sidegate").debug("quiet")

    assert stream.getvalue() == ""


def test_second_configuration_replaces_the_first(stream: LogStream) -> None:
    later = LogStream()
    logs.configure("debug", "json", later)

    logging.getLogger("sidegate.gate").debug("loud")

    assert (stream.getvalue(), later.line()["event"]) == ("", "loud")


async def test_asyncio_error_is_written_as_a_json_line(stream: LogStream) -> None:
    loop = asyncio.get_running_loop()

    loop.call_exception_handler({"message": "never retrieved", "exception": raised(TOKEN)})

    line = stream.line()
    assert (line["logger"], line["level"]) == ("asyncio", "error")
    assert "ValueError: ('[token]', 16)" in line["exception"]


def test_python_warning_is_written_as_a_json_line(stream: LogStream) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info", "json", stream)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)

    assert stream.line()["logger"] == "py.warnings"


def test_exception_is_one_field_without_local_variables(stream: LogStream) -> None:
    logging.getLogger("sidegate").error("failed", exc_info=raised("why"))

    assert stream.line()["exception"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: ('why', 16)" in stream.line()["exception"]
    assert "a local variable'" not in stream.getvalue()


@pytest.mark.parametrize(
    "secret",
    [TOKEN, API_KEY, LEASE, *(f"sg{x}_{TOKEN[4:]}" for x in "wmavs")],
    ids=["token", "api_key", "lease", *(f"token_{x}" for x in "wmavs")],
)
@pytest.mark.parametrize("format_", ["json", "console"])
def test_secret_is_redacted_in_every_part_of_a_line(
    secret: str, format_: logs.Format, stream: LogStream
) -> None:
    logs.configure("info", format_, stream)

    class HasSecretRepr:
        def __repr__(self) -> str:
            return f"<{secret}>"

    log = logging.getLogger("sidegate")
    log.info("in the message: %s", secret)
    log.info(secret)
    log.info("x%sx", secret)
    log.info("twice %s%s", secret, secret)
    log.info("Cookie: __Host-session=%s; a=b", secret)
    log.info("%r", secret.encode())
    log.info("field", extra={"field": secret, secret: 1})
    log.info("deep", extra={"deep": {"a": [{"b": (secret,)}], secret: {secret}}})
    log.info("object", extra={"object": HasSecretRepr(), "bytes": secret.encode()})
    log.error("exception", exc_info=raised(f"bad token {secret}"))
    logging.getLogger(secret).info("as a logger")
    chained = RuntimeError("outer")
    chained.__cause__ = raised(secret)
    log.error("chain", exc_info=chained)

    text = stream.getvalue()
    assert secret[4:40] not in text
    assert text.count("[token]") >= 16


def test_truncated_token_is_redacted(stream: LogStream) -> None:
    logging.getLogger("sidegate").info("cut %s", TOKEN[:40])

    assert stream.line()["event"] == "cut [token]"


@pytest.mark.parametrize("harmless", ["01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a", "sgw_short", "msgs_"])
def test_text_that_is_no_secret_is_not_redacted(harmless: str, stream: LogStream) -> None:
    logging.getLogger("sidegate").info(harmless)

    assert stream.line()["event"] == harmless


@pytest.mark.parametrize(
    "hostile",
    [
        "two\nlines",
        'an "end", and more',
        '{"level": "info"}',
        "\x1b[2J\x1b[31mred",
        "NUL \0, BEL \a, \x9b31m",
        "\u2028separator",
        "lone \ud800 surrogate",
    ],
)
def test_hostile_text_does_not_start_a_new_line(hostile: str, stream: LogStream) -> None:
    logging.getLogger("sidegate").info("%s", hostile, extra={"device": hostile})

    assert stream.line()["event"] == hostile
    assert stream.line()["device"] == hostile
    assert stream.getvalue().isascii()


def test_control_characters_are_escaped_on_the_console(console: LogStream) -> None:
    logging.getLogger("sidegate").info("%s", "a\nb\x1b[2J", extra={"device": "c\r\x9b31m\ud800"})

    assert console.getvalue().count("\n") == 1
    assert not set("\x1b\r\x9b\ud800") & set(console.getvalue())


def test_console_shows_exception_without_local_variables(console: LogStream) -> None:
    logging.getLogger("sidegate").error("failed", exc_info=raised("why"))

    assert "ValueError: ('why', 16)" in console.getvalue()
    assert "a local variable'" not in console.getvalue()


def test_record_that_cannot_be_formatted_is_reported_without_arguments(
    stream: LogStream, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError(TOKEN)

    logging.getLogger().handlers.clear()  # pytest's own handler raises the error
    logs.configure("info", "json", stream)
    log = logging.getLogger("sidegate")
    log.info("too few %s %s", TOKEN)
    log.info("broken", extra={"object": Broken()})

    events = [line["event"] for line in stream.lines()]
    assert events == ["log record not written"] * 2
    assert stream.lines()[0]["where"].startswith("sidegate test_logs.py:")
    assert TOKEN not in stream.getvalue()
    assert capfd.readouterr() == ("", "")


def test_line_for_a_closed_stdout_is_counted(
    stream: LogStream, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logs.dropped_lines()["failed"]
    stream.close()

    logging.getLogger("sidegate").info("into the void")

    assert logs.flush(timeout=10)
    assert logs.dropped_lines()["failed"] == before + 1
    assert capfd.readouterr() == ("", "")


def test_lines_keep_their_order_across_configurations(stream: LogStream) -> None:
    later = LogStream()
    log = logging.getLogger("sidegate")

    for number in range(100):
        log.info("%d", number)
    logs.configure("info", "json", later)
    log.info("100")

    assert [line["event"] for line in stream.lines()] == [str(number) for number in range(100)]
    assert later.line()["event"] == "100"


def test_dropped_lines_are_an_event_when_lines_are_written_again() -> None:
    report_lines_dropped_before()
    full = FullStream()
    logs.configure("info", "json", full)
    log = logging.getLogger("sidegate")
    log.info("lost")
    log.info("lost, too")
    assert logs.flush(timeout=10)

    full.is_full = False
    log.info("kept")

    kept, dropped = full.lines()
    assert kept["event"] == "kept"
    assert dropped["event"] == "log lines dropped"
    assert (dropped["lines"], dropped["reason"]) == (2, "No space left on device")
    assert (dropped["level"], dropped["logger"]) == ("error", "sidegate.logs")
