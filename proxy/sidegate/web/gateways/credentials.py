"""Find the one credential in raw header lines, strictly.

Sources are `Authorization: Bearer`, one cookie, and, if configured, one header. Everything present
in any of them counts: two different values are ambiguous and neither is used. Nothing is decoded,
unquoted or folded, so that a token has one text form everywhere.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sidegate.core.token import TokenText, parse_token_text
from sidegate.core.verdict import Deny, Reason
from sidegate.web.server.header_lines import LINE_END, WHITESPACE, Roles
from sidegate.web.server.messages import Head

# Only SP and HTAB are whitespace: a name after any other blank is a different name.
_PAIR_SEPARATORS: Final = (b"", b";", b"\n")
_COOKIE_PATTERN: Final = rb"%b(?:=([^;\r]*)|[ \t]*(?=[;\r]|\Z))"
_BEARER_PATTERN: Final = re.compile(rb"bearer(?:[ \t]+|\Z)", re.IGNORECASE)
# Closed for every parser: `"a\"` ends in an escaped quote, `"a"b"` opens another one.
_QUOTED_TEXT: Final = rb'[^"\\]*(?:\\.[^"\\]*)*'
_CLOSED_QUOTES: Final = re.compile(
    rb'"%b"(?:[^"\\]*"%b")*' % (_QUOTED_TEXT, _QUOTED_TEXT), re.DOTALL
)


@dataclass(frozen=True, slots=True)
class CredentialSources:
    """Where a token may be sent. A source that is None is not read."""

    bearer: bool = True
    cookie: bytes | None = b"__Host-session"
    header: bytes | None = None  # lower case
    _cookie: "re.Pattern[bytes] | None" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pattern = (
            None if self.cookie is None else re.compile(_COOKIE_PATTERN % re.escape(self.cookie))
        )
        object.__setattr__(self, "_cookie", pattern)

    def build_roles(self) -> Roles:
        """Return the headers to gather, by role."""
        roles = {"authorization": b"authorization"} if self.bearer else {}
        if self.cookie is not None:
            roles["cookie"] = b"cookie"
        if self.header is not None:
            roles["token"] = self.header
        return roles

    def read(self, head: Head) -> str | Deny:
        """Return the one credential presented, in any format; Deny if none or ambiguous."""
        presented = self._collect(head)
        if presented is None:
            return Deny(Reason.AMBIGUOUS)
        if not presented:
            return Deny(Reason.MISSING)
        if len(presented) > 1 and len(set(presented)) > 1:
            return Deny(Reason.AMBIGUOUS)
        # Bytes outside ASCII become characters that no token contains.
        return presented[0].decode("latin-1")

    def read_token_text(self, head: Head) -> TokenText | Deny:
        """Return the one credential presented, if it is in the token format."""
        if head.authorization is None and head.cookie is None and head.token is None:
            if head.bearer is None and head.session_cookie is not None:
                return head.session_cookie
            if head.session_cookie is None and head.bearer is not None:
                return head.bearer
        credential = self.read(head)
        if isinstance(credential, Deny):
            return credential
        return parse_token_text(credential) or Deny(Reason.MALFORMED)

    def _collect(self, head: Head) -> list[bytes] | None:
        """Return every value presented, or None if parsers can disagree on them."""
        presented: list[bytes] = [
            each for each in (head.bearer, head.session_cookie) if each is not None
        ]
        if head.authorization is not None and self.bearer:
            presented += _bearer_tokens(head.authorization)
        if head.cookie is not None and self._cookie is not None:
            values = _cookie_values(self._cookie, head.cookie)
            if values and b'"' in head.cookie and _shares_open_quote(self._cookie, head.cookie):
                return None
            presented += values
        if head.token is not None:
            presented += (line.rstrip(WHITESPACE) for line in head.token.split(LINE_END))
        return presented


def _bearer_tokens(lines: bytes) -> Iterator[bytes]:
    """Yield the bearer tokens; other schemes are ignored, not denied."""
    for line in lines.split(LINE_END):
        if (scheme := _BEARER_PATTERN.match(line)) is not None:
            yield line[scheme.end() :].rstrip(WHITESPACE)


def _cookie_values(cookie: "re.Pattern[bytes]", lines: bytes) -> list[bytes]:
    """Return the value of each pair that begins with the cookie's name."""
    return [
        (match[1] or b"").rstrip(WHITESPACE)
        for match in cookie.finditer(lines)
        if lines[: match.start()].rstrip(WHITESPACE)[-1:] in _PAIR_SEPARATORS
    ]


def _shares_open_quote(cookie: "re.Pattern[bytes]", lines: bytes) -> bool:
    """Return whether the cookie shares a line with an open quote: parsers disagree there."""
    return any(
        _cookie_values(cookie, line) and any(map(_has_open_quote, line.split(b";")))
        for line in lines.split(LINE_END)
    )


def _has_open_quote(pair: bytes) -> bool:
    value = pair.strip(WHITESPACE).partition(b"=")[2]
    return value.startswith(b'"') and _CLOSED_QUOTES.fullmatch(value) is None
