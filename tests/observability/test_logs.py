"""Log lines: one JSON object for each event, whoever logs, and never a secret in it."""

import asyncio
import json
import logging
import warnings
from collections.abc import Iterator
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


class Written(StringIO):
    """What was logged."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Put the process's logging back: it is one for all tests."""
    root = logging.getLogger()
    level, show = root.level, warnings.showwarning
    yield
    root.handlers[:] = [h for h in root.handlers if type(h).__module__ != logs.__name__]
    root.setLevel(level)
    logging.getLogger("sidegate").setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
    warnings.showwarning = show


@pytest.fixture
def written() -> Written:
    stream = Written()
    logs.configure("info", "json", stream)
    return stream


@pytest.fixture
def console() -> Written:
    stream = Written()
    logs.configure("info", "console", stream)
    return stream


def raised(text: str) -> Exception:
    try:
        local_variable = "a local variable"
        raise ValueError(text, len(local_variable))
    except ValueError as error:
        return error


def test_an_event_is_a_line_with_moment_level_logger_and_what_comes_with_it(
    written: Written,
) -> None:
    logging.getLogger("sidegate.web").warning("%s door open", "gate", extra={"address": "[::1]:1"})

    line = written.line()
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert line == {
        "level": "warning",
        "logger": "sidegate.web",
        "event": "gate door open",
        "address": "[::1]:1",
    }
    assert moment.utcoffset() is not None
    assert written.getvalue().split('"')[3].endswith("Z")


def test_what_is_below_the_level_is_not_written(written: Written) -> None:
    logging.getLogger("sidegate").debug("quiet")

    assert written.getvalue() == ""


def test_the_last_configuration_counts(written: Written) -> None:
    later = Written()
    logs.configure("debug", "json", later)

    logging.getLogger("sidegate.gate").debug("loud")

    assert (written.getvalue(), later.line()["event"]) == ("", "loud")


async def test_what_asyncio_has_to_say_comes_out_the_same_way(written: Written) -> None:
    loop = asyncio.get_running_loop()

    loop.call_exception_handler({"message": "never retrieved", "exception": raised(TOKEN)})

    line = written.line()
    assert (line["logger"], line["level"]) == ("asyncio", "error")
    assert "ValueError: ('[token]', 16)" in line["exception"]


def test_a_warning_of_python_comes_out_the_same_way(written: Written) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info", "json", written)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)

    assert written.line()["logger"] == "py.warnings"


def test_an_exception_is_one_field_without_local_variables(written: Written) -> None:
    logging.getLogger("sidegate").error("failed", exc_info=raised("why"))

    assert written.line()["exception"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: ('why', 16)" in written.line()["exception"]
    assert "a local variable'" not in written.getvalue()


@pytest.mark.parametrize(
    "secret", [TOKEN, API_KEY, LEASE, *(f"sg{x}_{TOKEN[4:]}" for x in "wmavs")]
)
@pytest.mark.parametrize("console_too", [False, True])
def test_a_secret_is_blanked_wherever_it_stands(
    secret: str, console_too: bool, written: Written
) -> None:
    if console_too:
        logs.configure("info", "console", written)

    class Mine:
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
    log.info("object", extra={"object": Mine(), "bytes": secret.encode()})
    log.error("exception", exc_info=raised(f"bad token {secret}"))
    logging.getLogger(secret).info("as a logger")
    chained = RuntimeError("outer")
    chained.__cause__ = raised(secret)
    log.error("chain", exc_info=chained)

    text = written.getvalue()
    assert secret[4:40] not in text
    assert text.count("[token]") >= 16


def test_most_of_a_token_is_a_secret_too(written: Written) -> None:
    logging.getLogger("sidegate").info("cut %s", TOKEN[:40])

    assert written.line()["event"] == "cut [token]"


@pytest.mark.parametrize("harmless", ["01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a", "sgw_short", "msgs_"])
def test_what_opens_nothing_is_written(harmless: str, written: Written) -> None:
    logging.getLogger("sidegate").info(harmless)

    assert written.line()["event"] == harmless


@pytest.mark.parametrize(
    "hostile",
    [
        "two\nlines",
        'an "end", and more',
        '{"level": "info"}',
        "\x1b[2J\x1b[31mred",
        "nul \0, bell \a, \x9b31m",
        "\u2028separator",
        "lone \ud800 surrogate",
    ],
)
def test_hostile_text_begins_no_line_of_its_own(hostile: str, written: Written) -> None:
    logging.getLogger("sidegate").info("%s", hostile, extra={"device": hostile})

    assert written.line()["event"] == hostile
    assert written.line()["device"] == hostile
    assert written.getvalue().isascii()


def test_hostile_text_does_not_steer_a_terminal(console: Written) -> None:
    logging.getLogger("sidegate").info("%s", "a\nb\x1b[2J", extra={"device": "c\r\x9b31m\ud800"})

    assert console.getvalue().count("\n") == 1
    assert not set("\x1b\r\x9b\ud800") & set(console.getvalue())


def test_the_console_shows_an_exception_without_local_variables(console: Written) -> None:
    logging.getLogger("sidegate").error("failed", exc_info=raised("why"))

    assert "ValueError: ('why', 16)" in console.getvalue()
    assert "a local variable'" not in console.getvalue()


def test_a_record_that_cannot_be_written_is_told_without_what_was_in_it(
    written: Written, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError(TOKEN)

    logging.getLogger().handlers.clear()  # pytest's own handler raises what cannot be written
    logs.configure("info", "json", written)
    log = logging.getLogger("sidegate")
    log.info("too few %s %s", TOKEN)
    log.info("broken", extra={"object": Broken()})

    events = [line["event"] for line in written.lines()]
    assert events == ["a record cannot be written"] * 2
    assert written.lines()[0]["where"].startswith("sidegate test_logs.py:")
    assert TOKEN not in written.getvalue()
    assert capfd.readouterr() == ("", "")


def test_nobody_is_disturbed_when_stdout_is_gone(written: Written) -> None:
    written.close()

    logging.getLogger("sidegate").info("into the void")
