"""What is said about a connection that failed."""

import errno
import socket
import ssl

import pytest

from sidegate.stores.network_errors import (
    describe_network_error,
    describe_text,
    iter_causes,
    shorten,
)


def build_ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


def build_certificate_error(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "Connection refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect, [Errno 111] x"), "Connection refused"),
        (OSError("no number"), None),
        (TimeoutError(), None),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "its name cannot be resolved: Name or service not known",
        ),
        (build_ssl_error("WRONG_VERSION_NUMBER"), "it answers without TLS"),
        (
            build_ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            "TLS failed: tlsv13 alert certificate required",
        ),
        (
            build_certificate_error("certificate has expired"),
            "its certificate is refused: certificate has expired",
        ),
        (ValueError("secret"), None),
    ],
)
def test_error_is_described(error: Exception, text: str | None) -> None:
    assert describe_network_error(error) == text


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("Error 111 connecting to 127.0.0.1:6379. Connection refused.", "Connection refused"),
        (
            "Error 1 connecting to cache:6379. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify "
            "failed: certificate has expired (_ssl.c:1006).",
            "its certificate is refused: certificate has expired",
        ),
        (
            "Error 1 connecting to cache:6379. [SSL: WRONG_VERSION_NUMBER] wrong version number.",
            "it answers without TLS",
        ),
        ("Connection closed by server.", None),
    ],
)
def test_text_of_a_library_is_described(text: str, described: str | None) -> None:
    assert describe_text(text) == described


def test_cause_is_described() -> None:
    error = RuntimeError("from the library")
    error.__cause__ = ConnectionResetError(errno.ECONNRESET, "reset")
    assert describe_network_error(error) == "Connection reset by peer"


def test_causes_that_refer_to_each_other_end() -> None:
    one, two = ValueError(), TypeError()
    one.__cause__, two.__cause__ = two, one
    assert [*iter_causes(one)] == [one, two]


def test_sentence_of_a_server_is_one_line_of_limited_length() -> None:
    assert shorten("a\n\tb \x1b[2J c") == "a b [2J c"
    assert len(shorten("x" * 999)) == 203
