"""Find Sidegate's credentials in raw header lines, strictly, and pass over the application's.

Sources are `Authorization: Bearer`, one cookie, and, if enabled, one header, Basic passwords and
WebSocket subprotocols. What has the format of a token is a candidate; anything else there is the
application's, or broken. A token has one text form everywhere; only Basic passwords are encoded.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, cast

from sidegate.core.token import TOKEN_PATTERN, TokenText
from sidegate.core.verdict import Deny, Reason
from sidegate.services.validator import Candidates, Presented
from sidegate.web.gateways.authorization import (
    decode_any_basic,
    parse_basic_password,
    parse_bearer,
)
from sidegate.web.gateways.cookies import SessionCookie
from sidegate.web.gateways.websocket_protocols import parse_offer
from sidegate.web.server.header_lines import LINE_END, WHITESPACE, PlainForms, Roles
from sidegate.web.server.messages import Head

_TOKEN: Final = re.compile(TOKEN_PATTERN)
# Also those that overlap; the pattern begins with a literal, which is searched for fast.
_EMBEDDED: Final = re.compile(rb"sg(?=(%b))" % TOKEN_PATTERN.removeprefix(b"sg"))
search_embedded: Final = _EMBEDDED.search
"""Return a match if any part of a value has the format of a token, or None."""

# By chance a value has one at most. Each costs a match, and the computation of its tag.
_MAX_EMBEDDED: Final = 32
# A browser has two cookies of one name at most, and a client hardly a token in every source.
_MAX_TOKENS: Final = 8
# Bytes of all these headers. The plain forms of the fast path are smaller.
_MAX_SIZE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class CredentialSources:
    """Where a token may be sent. A source that is None or False is not read."""

    bearer: bool = True
    cookie: bytes | None = b"__Host-session"
    header: bytes | None = None  # lower case
    basic: bool = False
    websocket_protocol: bool = False
    session_cookie: SessionCookie | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        session_cookie = None if self.cookie is None else SessionCookie(self.cookie)
        object.__setattr__(self, "session_cookie", session_cookie)

    @property
    def plain_forms(self) -> PlainForms:
        """The forms that a plain head captures as tokens."""
        return PlainForms(bearer=self.bearer, cookie=self.cookie)

    def build_roles(self) -> Roles:
        """Return the headers to gather, by role."""
        roles = {"authorization": b"authorization"} if self.bearer or self.basic else {}
        if self.cookie is not None:
            roles["cookie"] = b"cookie"
        if self.header is not None:
            roles["token"] = self.header
        if self.websocket_protocol:
            roles["websocket_protocol"] = b"sec-websocket-protocol"
        return roles

    def read(self, head: Head) -> Presented | Deny:
        """Return what is presented in the format of a token.

        Deny if parsers can disagree on it (two Authorization lines, a cookie inside another's
        quotes), if it is too much to be parsed, or if nothing is in that format.
        """
        if (
            head.authorization is None
            and head.cookie is None
            and head.token is None
            and head.websocket_protocol is None
        ):
            bearer, session_cookie = head.bearer, head.session_cookie
            if bearer is None:
                return Deny(Reason.MISSING) if session_cookie is None else session_cookie
            if session_cookie is None:
                return bearer
        return self._read_all(head)

    def is_ours(self, authorization: bytes) -> bool:
        """Return whether a token is the whole credential of an Authorization value."""
        credential = self._read_authorization(authorization)
        return credential is not None and is_token(credential)

    def has_cookie_token(self, head: Head) -> bool:
        """Return whether a session cookie has the format of a token."""
        return bool(_find_tokens(self._read_cookies(head)))

    def has_deliberate_token(self, head: Head) -> bool:
        """Return whether a token is sent as browsers send none by themselves, for another site.

        They add cookies, and Basic passwords that they have once asked for, to every request.
        """
        bearer: bytes | None = head.bearer
        if head.authorization is not None and self.bearer:
            bearer = parse_bearer(head.authorization)
        named = [] if head.token is None else head.token.split(LINE_END)
        sent = (bearer, *(line.rstrip(WHITESPACE) for line in named))
        return any(value is not None and is_token(value) for value in sent)

    def has_basic_token(self, head: Head) -> bool:
        """Return whether the password of Basic credentials is a token."""
        if not self.basic or head.authorization is None:
            return False
        password = parse_basic_password(head.authorization)
        return password is not None and is_token(password)

    def _read_all(self, head: Head) -> Presented | Deny:
        if _measure(head) > _MAX_SIZE:
            return Deny(Reason.AMBIGUOUS)
        if head.authorization is not None and LINE_END in head.authorization:
            return Deny(Reason.AMBIGUOUS)
        if head.cookie is not None and self._has_ambiguous_cookie(head.cookie):
            return Deny(Reason.AMBIGUOUS)
        others, rest = self._read_others(head)
        cookies = self._read_cookies(head)
        if not others and not cookies:
            return Deny(Reason.MISSING)
        tokens, cookie_tokens = _find_tokens(others), _find_tokens(cookies)
        distinct = {*tokens, *cookie_tokens}
        if not distinct:
            return Deny(Reason.MALFORMED)
        embedded = _find_embedded(rest)
        if len(distinct) == 1 and not embedded:
            return distinct.pop()
        if len(embedded) > _MAX_EMBEDDED or len(distinct) > _MAX_TOKENS:
            return Deny(Reason.AMBIGUOUS)
        return Candidates(tokens, cookie_tokens, tuple(dict.fromkeys(embedded)))

    def _read_others(self, head: Head) -> tuple[list[bytes], list[bytes]]:
        """Return what is presented other than by the cookie, and what is not ours as a whole."""
        presented: list[bytes] = [] if head.bearer is None else [head.bearer]
        rest: list[bytes] = []
        if head.authorization is not None:
            credential = self._read_authorization(head.authorization)
            if credential is not None:
                presented.append(credential)
            if credential is None or not is_token(credential):
                rest.append(head.authorization)
                if self.basic:
                    rest += decode_any_basic(head.authorization)
        if head.token is not None:
            lines = [line.rstrip(WHITESPACE) for line in head.token.split(LINE_END)]
            presented += lines
            rest += (line for line in lines if not is_token(line))
        if head.websocket_protocol is not None:
            offer = parse_offer(head.websocket_protocol)
            if offer.token is not None:
                presented.append(offer.token)
            rest.append(offer.others)
        return presented, rest

    def _read_authorization(self, value: bytes) -> bytes | None:
        """Return the credential, or None for the application's: another scheme or password."""
        bearer = parse_bearer(value) if self.bearer else None
        if bearer is not None or not self.basic:
            return bearer
        password = parse_basic_password(value)
        return password if password is not None and is_token(password) else None

    def _read_cookies(self, head: Head) -> Sequence[bytes]:
        if head.cookie is not None and self.session_cookie is not None:
            return self.session_cookie.read_values(head.cookie)
        return () if head.session_cookie is None else (head.session_cookie,)

    def _has_ambiguous_cookie(self, lines: bytes) -> bool:
        return self.session_cookie is not None and self.session_cookie.is_ambiguous(lines)


def is_token(value: bytes) -> bool:
    """Return whether `value` has the format of a token."""
    return _TOKEN.fullmatch(value) is not None


def list_tokens(presented: Presented | Deny) -> tuple[TokenText, ...]:
    """Return the tokens that are presented as a whole value."""
    match presented:
        case Deny():
            return ()
        case Candidates(others, cookies):
            return others + cookies
        case token:
            return (token,)


def _find_tokens(values: Iterable[bytes]) -> tuple[TokenText, ...]:
    """Return the distinct values in the format of a token, in their order."""
    tokens = [value for value in values if is_token(value)]
    return cast("tuple[TokenText, ...]", tuple(dict.fromkeys(tokens)))


def _measure(head: Head) -> int:
    """Return the bytes of the headers that tokens are read from, unless in a plain form."""
    return (
        len(head.authorization or b"")
        + len(head.cookie or b"")
        + len(head.token or b"")
        + len(head.websocket_protocol or b"")
    )


def _find_embedded(values: Iterable[bytes]) -> list[TokenText]:
    """Return the parts in the format of a token, at most one more than are verified."""
    matches = chain.from_iterable(map(_EMBEDDED.finditer, values))
    return [TokenText(match[0] + match[1]) for match in islice(matches, _MAX_EMBEDDED + 1)]
