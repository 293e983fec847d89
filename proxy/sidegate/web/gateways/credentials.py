"""Find Sidegate's credentials in raw header lines, strictly, and pass over the application's.

Sources are `Authorization: Bearer`, one cookie, and, if configured, one header. What has the format
of a token is a candidate; anything else there is the application's, or broken. Nothing is decoded,
unquoted or folded, so that a token has one text form everywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidegate.core.token import TOKEN_PATTERN, TokenText
from sidegate.core.verdict import Deny, Reason
from sidegate.services.validator import Candidates, Presented
from sidegate.web.server.header_lines import LINE_END, WHITESPACE, Roles
from sidegate.web.server.messages import Head

# Only SP and HTAB are whitespace: a name after any other blank is a different name.
_PAIR_SEPARATORS: Final = (b"", b";", b"\n")
_COOKIE_PATTERN: Final = rb"%b(?:=([^;\r]*)|[ \t]*(?=[;\r]|\Z))"
_BEARER: Final = re.compile(rb"bearer(?=[ \t]|\Z)( *)", re.IGNORECASE)  # RFC 6750, 2.1: 1*SP
_TOKEN: Final = re.compile(TOKEN_PATTERN)
# A value that begins with a quote, as parsers read it that know quotes, with and without escaped
# characters. A quote that is never closed opens nothing: the group is empty. Neither can fail once
# it has begun, so the time is linear.
_QUOTED_VALUES: Final = (
    re.compile(rb'=[ \t]*"[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)', re.DOTALL),
    re.compile(rb'=[ \t]*"[^"]*("|\Z)'),
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

    def read(self, head: Head) -> Presented | Deny:
        """Return what is presented in the format of a token.

        Deny if parsers can disagree on it (two Authorization lines, a cookie inside another's
        quotes), or if nothing is in that format.
        """
        if head.authorization is None and head.cookie is None and head.token is None:
            if head.bearer is None and head.session_cookie is not None:
                return head.session_cookie
            if head.session_cookie is None and head.bearer is not None:
                return head.bearer
        if head.authorization is not None and LINE_END in head.authorization:
            return Deny(Reason.AMBIGUOUS)
        if head.cookie is not None and self._is_quoted(head.cookie):
            return Deny(Reason.AMBIGUOUS)
        others, cookies = [*self._read_others(head)], [*self._read_cookies(head)]
        if not others and not cookies:
            return Deny(Reason.MISSING)
        return _choose(Candidates(_find_tokens(others), _find_tokens(cookies)))

    def _read_others(self, head: Head) -> Iterator[bytes]:
        """Yield what is presented other than by the cookie."""
        if head.bearer is not None:
            yield head.bearer
        if head.authorization is not None and self.bearer:
            scheme = _BEARER.match(head.authorization)
            if scheme is not None:  # other schemes are the application's
                yield head.authorization[scheme.end() :].rstrip(WHITESPACE)
        if head.token is not None:
            for line in head.token.split(LINE_END):
                yield line.rstrip(WHITESPACE)

    def _read_cookies(self, head: Head) -> Iterator[bytes]:
        if head.session_cookie is not None:
            yield head.session_cookie
        if head.cookie is not None and self._cookie is not None:
            for pair in _find_pairs(self._cookie, head.cookie):
                yield (pair[1] or b"").rstrip(WHITESPACE)

    def _is_quoted(self, lines: bytes) -> bool:
        """Return whether a session cookie stands between a quote that opens and one that closes."""
        if self._cookie is None or b'"' not in lines:
            return False
        return any(
            _is_any_quoted([pair.start() for pair in _find_pairs(self._cookie, line)], line)
            for line in lines.split(LINE_END)
        )


def _choose(candidates: Candidates) -> Presented | Deny:
    """Return the one candidate, all of several, or a denial."""
    distinct = {*candidates.others, *candidates.cookies}
    if not distinct:
        return Deny(Reason.MALFORMED)
    return candidates if len(distinct) > 1 else distinct.pop()


def _find_tokens(values: Iterable[bytes]) -> tuple[TokenText, ...]:
    """Return the distinct values in the format of a token, in their order."""
    tokens = (TokenText(value) for value in values if _TOKEN.fullmatch(value))
    return tuple(dict.fromkeys(tokens))


def _is_any_quoted(positions: Sequence[int], line: bytes) -> bool:
    """Return whether any of these ascending positions is inside a quoted value."""
    return any(_is_inside(positions, pattern.finditer(line)) for pattern in _QUOTED_VALUES)


def _is_inside(positions: Sequence[int], quoted: Iterable["re.Match[bytes]"]) -> bool:
    rest = iter(positions)
    position = next(rest, None)
    for value in quoted:
        start, end = value.span()
        while position is not None and position < start:
            position = next(rest, None)
        if position is None:
            break
        if position < end and value[1] == b'"':
            return True
    return False


def _find_pairs(cookie: "re.Pattern[bytes]", lines: bytes) -> Iterator["re.Match[bytes]"]:
    """Yield each pair that begins with the cookie's name."""
    for match in cookie.finditer(lines):
        if _begins_pair(lines, match.start()):
            yield match


def _begins_pair(lines: bytes, position: int) -> bool:
    while lines[position - 1 : position] in (b" ", b"\t"):
        position -= 1
    return lines[position - 1 : position] in _PAIR_SEPARATORS
