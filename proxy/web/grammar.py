"""The strict grammar of a plain request to the gate: one expression over its whole head.

What it matches is answered by the express lane, and aiohttp's parser would read it the same way.
What it does not match is nobody's mistake yet: aiohttp decides what that is.

A plain head is a known method, one of the gate's paths, HTTP/1.1 (or 1.0 and the end of the
connection), exactly one Host, header lines of a strict alphabet, and no word about a body or an
upgrade. A header that plays a role comes once, and so do those that aiohttp takes but once.
"""

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Final

from proxy.core.token import SPELLED
from proxy.web.lines import Roles
from proxy.web.messages import Head

# Less than the door takes: 256 lines of 64 KiB, and a target of 32 KiB.
_MOST_LINES: Final = 200
_METHOD: Final = rb"GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|PROPFIND|TRACE"
_TARGET: Final = rb"[!\"$-~]{0,8000}+"  # without a fragment
_NAME: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,1000}+"
_TEXT: Final = rb"[\t -~\x80-\xff]{0,60000}+"
_VALUE: Final = rb"(%b(?<![ \t])|)" % _TEXT  # caught; no blanks stand at its end
_BLANKS: Final = rb"[ \t]*+"
_NEVER: Final = rb"\0(?!)"  # matches nothing, and soon

# What aiohttp's parser takes once, or finds a meaning in. A plain head has but one of the rarities.
_ONCE: Final = {"host": b"host", "user_agent": b"user-agent", "content_type": b"content-type"}
_RARITIES: Final = (
    b"content-location", b"content-range", b"etag", b"max-forwards", b"server",
)  # fmt: skip
_SPECIAL: Final = (
    b"connection", b"content-encoding", b"content-length", b"expect", b"proxy-connection",
    b"sec-websocket-key1", b"transfer-encoding", b"upgrade", *_RARITIES,
)  # fmt: skip

_ROLES: Final = Head._fields[Head._fields.index("host") :]


def grammar(route: str, roles: Roles) -> "re.Pattern[bytes] | None":
    """Return the expression whose groups are the fields of a Head. None: there is none.

    Where one header has two meanings, only aiohttp's lane can tell what was sent.
    """
    names = {**_ONCE, **roles}
    known = {*names.values(), *_SPECIAL}
    if len(known) < len(names) + len(_SPECIAL):
        return None
    lines = [_line(role, names) for role in _ROLES]
    lines.append(rb"(?!%b:)%b:%b" % (_one_of(known), _NAME, _TEXT))
    start = rb"(%b) (%b) HTTP/1\.(?:1|(0))" % (_METHOD, _target(route))
    has_host = rb"(?(%d)|(?!))" % _group("host")
    if_old_closes = rb"(?(%d)(?(%d)|(?!)))" % (_group("old"), _group("connection"))
    return re.compile(
        rb"%b\r\n(?:(?:%b)\r\n){1,%d}+\r\n%b%b"
        % (start, b"|".join(lines), _MOST_LINES, has_host, if_old_closes)
    )


def _target(route: str) -> bytes:
    follows = b"[/?]" if route.endswith("/") else b"\\?"
    return rb"%b(?:%b%b)?+" % (re.escape(route.rstrip("/").encode("ascii")), follows, _TARGET)


def _line(role: str, names: Roles) -> bytes:
    """Match the header that plays a role, and catch its value in the group of that field."""
    match role:
        case "bearer" if "authorization" in names:
            # What is spelled like a token needs no second look; it has a group of its own.
            bearer = rb"[Bb]earer[ \t]++(%b)(?=\r)" % SPELLED
            either = rb"%b(?:%b|%b)" % (_BLANKS, bearer, _VALUE)
            name = _in_any_case(names["authorization"])
            return rb"%b:%b" % (name, _once("bearer", _once("authorization", either)))
        case "authorization" if role in names:
            return _NEVER  # its group stands in the line above
        case "connection":
            name = _in_any_case(b"connection")
            kept = rb"(?(%d)(?!)|[Kk]eep-[Aa]live)" % _group("old")
            return rb"%b:%b" % (name, _once(role, rb"%b([Cc]lose|%b)" % (_BLANKS, kept)))
        case "rarity":
            nothing = rb"%b:%b0" % (_in_any_case(b"content-length"), _BLANKS)
            rarity = rb"%b:%b" % (_one_of(_RARITIES), _TEXT)
            return rb"(?:%b|%b)%b" % (nothing, rarity, _once(role, b"()"))
        case _ if role in names:
            return rb"%b:%b" % (_in_any_case(names[role]), _once(role, _BLANKS + _VALUE))
        case _:
            return _NEVER + b"()"  # no header does


def _once(role: str, caught: bytes) -> bytes:
    """Match this unless the group of the role has caught something already."""
    return rb"(?(%d)(?!)|%b)" % (_group(role), caught)


def _group(role: str) -> int:
    """Only numbers can refer to a group that is not there yet."""
    return Head._fields.index(role) + 1


def _one_of(names: Iterable[bytes]) -> bytes:
    """Match one of the names, looking at each letter once."""
    branches = [
        _in_any_case(first) + _one_of(name[1:] for name in group) if first else b""
        for first, group in groupby(sorted(names), lambda name: name[:1])
    ]
    return branches[0] if len(branches) == 1 else b"(?:%b)" % b"|".join(branches)


def _in_any_case(name: bytes) -> bytes:
    # `re.IGNORECASE` takes twice as long.
    return b"".join(
        b"[%b%b]" % (letter.upper(), letter) if letter.isalpha() else re.escape(letter)
        for letter in (name[at : at + 1] for at in range(len(name)))
    )
