"""What the operating system and TLS say about a connection that failed, for operators."""

import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

MAX_LENGTH: Final = 200

# What OpenSSL reports if the reply to its first message is not TLS.
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
)


def describe_network_error(error: BaseException) -> str | None:
    """Return why a connection failed, from an error or what caused it; None: they do not say."""
    for each in iter_causes(error):
        if isinstance(each, OSError):
            return _describe(each)
    return None


def is_tls_error(error: BaseException) -> bool:
    """Return whether a connection failed because of TLS."""
    return any(isinstance(each, ssl.SSLError) for each in iter_causes(error))


def iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def shorten(text: str) -> str:
    """Return the sentence of a server as one line of limited length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_LENGTH else f"{line[:MAX_LENGTH]}..."


def describe_text(text: str) -> str | None:
    """Return the same from the text of an error, where a library has lost its cause."""
    if refused := re.search(r"certificate verify failed: (.*?)\.?(?: \(_ssl|$)", text):
        return f"its certificate is refused: {shorten(refused[1])}"
    if tls := re.search(r"\[SSL: (\w+)\]", text):
        return _describe_tls(tls[1])
    number = re.search(r"\[Errno (\d+)\]|^Error (\d+) connecting to ", text)
    return None if number is None else os.strerror(int(number[1] or number[2]))


def _describe_tls(reason: str) -> str:
    if reason in _NOT_TLS:
        return "it answers without TLS"
    return f"TLS failed: {reason.lower().replace('_', ' ')}"


def _describe(error: OSError) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused: {shorten(error.verify_message).rstrip('.')}"
        case ssl.SSLError():
            return _describe_tls(error.reason or type(error).__name__)
        case socket.gaierror():
            return f"its name cannot be resolved: {error.strerror}"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case _:  # asyncio has tried several addresses, or gave up waiting
            return describe_text(str(error))
