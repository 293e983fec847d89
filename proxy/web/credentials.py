"""Find the one credential in raw header lines, strictly: when in doubt, it is not one.

Sources are `Authorization: Bearer`, one cookie, and, if configured, one header. Whatever is
presented in any of them counts; two different ones are ambiguous, and nobody picks. Nothing is
decoded, unquoted or folded, so that one token has one spelling everywhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.core.verdict import Deny, Reason

_BLANKS: Final = b" \t"
_BEARER: Final = re.compile(rb"bearer(?:[ \t]+|\Z)", re.IGNORECASE)
# Closed as every parser sees it: `"a\"` ends in a quote that is escaped, `"a"b"` opens another.
_INSIDE: Final = rb'[^"\\]*(?:\\.[^"\\]*)*'
_CLOSED: Final = re.compile(rb'"%b"(?:[^"\\]*"%b")*' % (_INSIDE, _INSIDE), re.DOTALL)


@dataclass(frozen=True, slots=True)
class CredentialSources:
    """Where a token may stand. A source that is None is not read."""

    bearer: bool = True
    cookie: bytes | None = b"__Host-session"
    header: bytes | None = None  # lower case

    def read(self, lines: Mapping[bytes, Sequence[bytes]]) -> str | Deny:
        """Return the only credential presented. `lines` are header values by lower-case name."""
        try:
            presented = set(self._presented(lines))
        except _Sandwich:
            return Deny(Reason.AMBIGUOUS)
        if not presented:
            return Deny(Reason.MISSING)
        if len(presented) > 1:
            return Deny(Reason.AMBIGUOUS)
        # Bytes beyond ASCII become characters that no token has.
        return presented.pop().decode("latin-1")

    def _presented(self, lines: Mapping[bytes, Sequence[bytes]]) -> Iterator[bytes]:
        if self.bearer:
            for line in lines.get(b"authorization", ()):
                yield from _bearer(line)
        if self.cookie is not None:
            for line in lines.get(b"cookie", ()):
                yield from _cookies(line, self.cookie)
        if self.header is not None:
            yield from lines.get(self.header, ())


class _Sandwich(Exception):
    """Our cookie shares a line with an unclosed quote: parsers disagree on what it is part of."""


def _bearer(line: bytes) -> Iterator[bytes]:
    """Another scheme is somebody else's credential, not a bad one of ours."""
    stripped = line.strip(_BLANKS)
    scheme = _BEARER.match(stripped)
    if scheme is not None:
        yield stripped[scheme.end() :]


def _cookies(line: bytes, wanted: bytes) -> Iterator[bytes]:
    """Only SP and HTAB are white space: a name behind any other blank is another name."""
    pairs = [pair.strip(_BLANKS).partition(b"=") for pair in line.split(b";")]
    ours = [value for name, _, value in pairs if name == wanted]
    if ours and any(_unclosed(value) for _, _, value in pairs):
        raise _Sandwich
    yield from ours


def _unclosed(value: bytes) -> bool:
    return value.startswith(b'"') and _CLOSED.fullmatch(value) is None
