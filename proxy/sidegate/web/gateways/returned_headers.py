"""The client's headers as the application gets them: without the credential.

Each header that a token is read from is returned with what else it holds. The same parsers decide
what is read and what is removed, so that gateways need no rule of their own for it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sidegate.core.token import TOKEN_SIZE, TokenText
from sidegate.web.gateways.authorization import decode_any_basic
from sidegate.web.gateways.cookies import BETWEEN_PAIRS, remove_pairs
from sidegate.web.gateways.credentials import (
    CredentialSources,
    is_token,
    list_tokens,
    search_embedded,
)
from sidegate.web.gateways.websocket_protocols import parse_offer
from sidegate.web.server.header_lines import LINE_END, WHITESPACE
from sidegate.web.server.messages import Head

RawField = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ReturnedHeaders:
    """The headers of the enabled sources, for the 200 to a head. `names`: of all of them.

    `drops_embedded`: for answers that do not depend on the credential, which may be ambiguous then.
    A header is left out if a part of what is left has the format of a token.
    """

    sources: CredentialSources
    drops_embedded: bool = False
    names: tuple[bytes, ...] = field(init=False)
    _own_cookie_start: bytes = field(init=False)
    _own_cookie_size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(_title, self.sources.build_roles().values())))
        start = b"%b=" % (self.sources.cookie or b"")
        object.__setattr__(self, "_own_cookie_start", start)
        object.__setattr__(self, "_own_cookie_size", len(start) + TOKEN_SIZE)

    def build_lines(self, head: Head) -> bytes:
        """Return the lines of `read_fields`."""
        cookies = self.read_plain_cookies(head)
        if cookies is None:
            return encode_fields(self.read_fields(head))
        return b"Cookie: %b\r\n" % cookies if cookies else b""

    def read_fields(self, head: Head) -> list[RawField]:
        """Return one field for each header with something left, in the order of `names`."""
        fields = [field for field in self._read_all(head) if field[1]]
        if self.drops_embedded:
            fields = [field for field in fields if not self._has_embedded(field[1])]
        return fields

    def read_plain_cookies(self, head: Head) -> bytes | None:
        """Return the value of Cookie, empty if there is none, as `read_fields` does but faster.

        Return None if there may be another field, or if the cookies are not as browsers send them.
        """
        if (
            head.authorization is not None
            or head.cookie is not None
            or head.token is not None
            or head.websocket_protocol is not None
        ):
            return None
        line, token = head.cookies, head.session_cookie
        if line is None:
            return b""
        if self.drops_embedded:
            return None
        if token is not None:
            if len(line) == self._own_cookie_size:
                return b""
            line = self._remove_own_pair(line, token)
        if not line or line[0] in BETWEEN_PAIRS or line[-1] in BETWEEN_PAIRS:
            return None
        if token is not None and line.find(token) >= 0:
            return None
        return line if head.bearer is None or line.find(head.bearer) < 0 else None

    def _remove_own_pair(self, line: bytes, token: TokenText) -> bytes:
        """Return the other pairs; empty if the separator is not the one that browsers send."""
        before, _, after = line.partition(self._own_cookie_start + token)
        if before[-2:] == b"; ":
            return before[:-2] + after
        return after[2:] if not before and after[:2] == b"; " else b""

    def _read_all(self, head: Head) -> Iterator[RawField]:
        if head.authorization is not None:
            yield b"Authorization", self._read_authorization(head.authorization)
        cookies = head.cookies if head.cookie is None else head.cookie
        if cookies is not None:
            yield b"Cookie", self._read_cookies(head, cookies)
        if head.token is not None and self.sources.header is not None:
            yield _title(self.sources.header), b", ".join(_others(head.token))
        if head.websocket_protocol is not None:
            yield b"Sec-WebSocket-Protocol", parse_offer(head.websocket_protocol).others

    def _has_embedded(self, value: bytes) -> bool:
        """Return whether a token may be in a value, or a line of its own in several."""
        texts = [value, *(decode_any_basic(value) if self.sources.basic else ())]
        return LINE_END in value or any(search_embedded(text) for text in texts)

    def _read_authorization(self, value: bytes) -> bytes:
        return b"" if self.sources.is_ours(value) else value.strip(WHITESPACE)

    def _read_cookies(self, head: Head, lines: bytes) -> bytes:
        if self.sources.session_cookie is None:
            return b""
        rest = self.sources.session_cookie.remove_from(lines)
        return rest if search_embedded(rest) is None else self._remove_tokens(head, rest)

    def _remove_tokens(self, head: Head, line: bytes) -> bytes:
        """Remove what the client has sent of its token in another cookie, or after a semicolon."""
        return remove_pairs(line, list_tokens(self.sources.read(head)))


def encode_fields(fields: Iterable[RawField]) -> bytes:
    """Return the header lines; the values have no line ends."""
    return b"".join([name + b": " + value + b"\r\n" for name, value in fields])


def _title(name: bytes) -> bytes:
    """Return a lower-case name as it is usually written."""
    return name.title().replace(b"Websocket", b"WebSocket")


def _others(lines: bytes) -> Iterator[bytes]:
    """Yield the values that do not have the format of a token."""
    for line in lines.split(LINE_END):
        value = line.strip(WHITESPACE)
        if value and not is_token(value):
            yield value
