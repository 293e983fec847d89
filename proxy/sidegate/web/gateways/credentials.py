"""Find the one credential in raw header lines, strictly: when in doubt, it is not one.

Sources are `Authorization: Bearer`, one cookie, and, if configured, one header. Whatever is
presented in any of them counts; two different ones are ambiguous, and nobody picks. Nothing is
decoded, unquoted or folded, so that one token has one spelling everywhere.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sidegate.core.token import TokenText, token_text_of
from sidegate.core.verdict import Deny, Reason
from sidegate.web.server.header_lines import BLANKS, LINE_END, Roles
from sidegate.web.server.messages import Head

# Only SP and HTAB are white space: a name behind any other blank is another name.
_BEFORE_A_PAIR: Final = (b"", b";", b"\n")
_NAMED: Final = rb"%b(?:=([^;\r]*)|[ \t]*(?=[;\r]|\Z))"
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
    _cookie: "re.Pattern[bytes] | None" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pattern = None if self.cookie is None else re.compile(_NAMED % re.escape(self.cookie))
        object.__setattr__(self, "_cookie", pattern)

    def roles(self) -> Roles:
        """Return the headers that have to be gathered for this."""
        roles = {"authorization": b"authorization"} if self.bearer else {}
        if self.cookie is not None:
            roles["cookie"] = b"cookie"
        if self.header is not None:
            roles["token"] = self.header
        return roles

    def read(self, head: Head) -> str | Deny:
        """Return the only credential presented, whatever it is."""
        presented = self._presented(head)
        if presented is None:
            return Deny(Reason.AMBIGUOUS)
        if not presented:
            return Deny(Reason.MISSING)
        if len(presented) > 1 and len(set(presented)) > 1:
            return Deny(Reason.AMBIGUOUS)
        # Bytes beyond ASCII become characters that no token has.
        return presented[0].decode("latin-1")

    def token_text(self, head: Head) -> TokenText | Deny:
        """Return the only credential presented, if it is spelled like a token."""
        if head.authorization is None and head.cookie is None and head.token is None:
            if head.bearer is None and head.ours is not None:
                return head.ours
            if head.ours is None and head.bearer is not None:
                return head.bearer
        credential = self.read(head)
        if isinstance(credential, Deny):
            return credential
        return token_text_of(credential) or Deny(Reason.MALFORMED)

    def _presented(self, head: Head) -> list[bytes] | None:
        """None: nobody can say what is presented."""
        presented: list[bytes] = [each for each in (head.bearer, head.ours) if each is not None]
        if head.authorization is not None and self.bearer:
            presented += _bearers(head.authorization)
        if head.cookie is not None and self._cookie is not None:
            ours = _values(self._cookie, head.cookie)
            if ours and b'"' in head.cookie and _is_sandwich(self._cookie, head.cookie):
                return None
            presented += ours
        if head.token is not None:
            presented += (line.rstrip(BLANKS) for line in head.token.split(LINE_END))
        return presented


def _bearers(lines: bytes) -> Iterator[bytes]:
    """Another scheme is somebody else's credential, not a bad one of ours."""
    for line in lines.split(LINE_END):
        if (scheme := _BEARER.match(line)) is not None:
            yield line[scheme.end() :].rstrip(BLANKS)


def _values(cookie: "re.Pattern[bytes]", lines: bytes) -> list[bytes]:
    """Return the values of our cookie, as often as a pair begins with its name."""
    return [
        (named[1] or b"").rstrip(BLANKS)
        for named in cookie.finditer(lines)
        if lines[: named.start()].rstrip(BLANKS)[-1:] in _BEFORE_A_PAIR
    ]


def _is_sandwich(cookie: "re.Pattern[bytes]", lines: bytes) -> bool:
    """Our cookie shares a line with an open quote: parsers disagree on what is part of what."""
    return any(
        _values(cookie, line) and any(map(_unclosed, line.split(b";")))
        for line in lines.split(LINE_END)
    )


def _unclosed(pair: bytes) -> bool:
    value = pair.strip(BLANKS).partition(b"=")[2]
    return value.startswith(b'"') and _CLOSED.fullmatch(value) is None
