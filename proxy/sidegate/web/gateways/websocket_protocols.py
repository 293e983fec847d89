"""A token in the subprotocols that a WebSocket client offers: `sidegate, TOKEN[, OTHERS]`.

Browsers let a script set no other header of a WebSocket.
"""

import re
from typing import Final, NamedTuple

from sidegate.core.token import TOKEN_PATTERN, TokenText
from sidegate.web.server.header_lines import LINE_END, WHITESPACE

_OFFER: Final = re.compile(
    rb"[ \t]*+sidegate[ \t]*+,[ \t]*+(%b)[ \t]*+(?:,(.*))?" % TOKEN_PATTERN, re.DOTALL
)


class Offer(NamedTuple):
    """The token, if the list begins with one, and the application's part of the list."""

    token: TokenText | None
    others: bytes


def parse_offer(lines: bytes) -> Offer:
    """Read Sec-WebSocket-Protocol, whose lines are one list (RFC 9110, 5.3)."""
    value = lines.replace(LINE_END, b", ").strip(WHITESPACE)
    match = _OFFER.fullmatch(value)
    if match is None:
        return Offer(None, value)
    return Offer(TokenText(match[1]), (match[2] or b"").strip(WHITESPACE))
