"""The strict grammar of a plain request to the gate, as expressions over a whole head.

What they match is answered by the express lane, and aiohttp's parser would read it the same way.
What they do not match is nobody's mistake yet: aiohttp decides what that is.

A plain head is a known method, one of the gate's paths, HTTP/1.1 (or 1.0 and the end of the
connection), exactly one Host, header lines of a strict alphabet, and no word about a body or an
upgrade. A header that plays a role comes once, and so do those that aiohttp takes but once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from sidegate.core.token import TOKEN_PATTERN
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head

BLANKS: Final = rb"[ \t]*+"
TEXT: Final = rb"[\t -~\x80-\xff]{0,60000}+"

# Possessive is only what repeats a single class: before 3.11.5 Python took repeated groups that may
# backtrack for something else (CPython's issue 106052). And nothing is caught before it is certain.

# Less than the door takes: 256 lines of 64 KiB, and a target of 32 KiB.
_MOST_LINES: Final = 200
_METHOD: Final = rb"GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|PROPFIND|TRACE"
_TARGET: Final = rb"[!\"$-~]{0,8000}+"  # without a fragment
_NAME: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,1000}+"
_PAIR: Final = rb"[\t !#-:<-~\x80-\xff]{0,60000}+"  # a text without quotes and semicolons
_NEVER: Final = rb"\0(?!)"  # matches nothing, and soon

# aiohttp's parser takes these once ...
_ONCE: Final = {"host": b"host", "user_agent": b"user-agent", "content_type": b"content-type"}
# ... and these: of them a plain head has but one. They are seldom, and nobody reads them.
_RARITIES: Final = (
    b"content-location", b"content-range", b"etag", b"max-forwards", b"server",
)  # fmt: skip
# In these it finds a meaning that no plain head has.
_REFUSED: Final = (
    b"content-encoding", b"expect", b"proxy-connection", b"sec-websocket-key1",
    b"transfer-encoding", b"upgrade",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """How the value of a header is read. Its groups catch these fields of a Head, in this order."""

    names: tuple[bytes, ...]
    fields: tuple[str, ...]
    value: bytes


class Grammar:
    """The rules for one desk, and the expression made of them."""

    def __init__(self, route: str, roles: Roles, cookie: bytes | None = None) -> None:
        """`cookie` is the name of ours. ValueError: a header has two meanings.

        Then only aiohttp's lane can tell what was sent.
        """
        self._rules = tuple(_rules({**_ONCE, **roles}, cookie))
        names = [name for rule in self._rules for name in rule.names] + [*_REFUSED]
        if len(set(names)) < len(names):
            raise ValueError("a header has two meanings")
        self.start = rb"(%b) (%b) HTTP/1\.(?:1|(0))\r\n" % (_METHOD, _target(route))
        self.by_name: Mapping[bytes, Rule] = {
            name: rule for rule in self._rules for name in rule.names
        }
        self.any_head = re.compile(self.start + self._any_lines(names))

    def _any_lines(self, known: Iterable[bytes]) -> bytes:
        """Match header lines in any order. The groups are the fields of a Head, in theirs."""
        lines = [*self._known_lines(), rb"(?!%b:)%b:%b" % (_one_of(known), _NAME, TEXT)]
        has_host = rb"(?(%d)|(?!))" % _group("host")
        if_old_closes = rb"(?(%d)(?(%d)|(?!)))" % (_group("old"), _group("connection"))
        alternatives = b"|".join(lines)
        repeated = rb"(?:(?:%b)\r\n){1,%d}\r\n" % (alternatives, _MOST_LINES)
        return repeated + has_host + if_old_closes

    def _known_lines(self) -> Iterator[bytes]:
        rules = {rule.fields[0]: rule for rule in self._rules}
        caught = {field for rule in self._rules for field in rule.fields}
        for field in Head._fields[Head._fields.index("host") :]:
            if field in rules:
                rule = rules[field]
                yield rb"%b:%b" % (_one_of(rule.names), _unless_caught(rule))
            elif field not in caught:
                yield _NEVER + b"()"  # its group must be somewhere


def _target(route: str) -> bytes:
    follows = b"[/?]" if route.endswith("/") else b"\\?"
    return rb"%b(?:%b%b)?" % (re.escape(route.rstrip("/").encode("ascii")), follows, _TARGET)


def _rules(names: Roles, cookie: bytes | None) -> Iterator[Rule]:
    kept = rb"(?(%d)(?!)|[Kk]eep-[Aa]live)" % _group("old")
    yield Rule((b"connection",), ("connection",), rb"([Cc]lose|%b)" % kept)
    yield Rule((b"content-length",), ("length",), rb"(0)")
    yield Rule(_RARITIES, ("rarity",), rb"(%b)" % TEXT)
    for role, name in names.items():
        match role:
            case "authorization":
                # What is spelled like a token needs no second look.
                bearer = rb"[Bb]earer[ \t]++(?=%b\r)(%b)" % (TOKEN_PATTERN, TOKEN_PATTERN)
                yield Rule((name,), ("bearer", role), rb"(?:%b|(%b))" % (bearer, TEXT))
            case "cookie" if cookie is not None:
                # Nor do cookies none of which is quoted, and but one of which is ours.
                yield Rule((name,), ("ours", role), rb"(?:%b|(%b))" % (_cookies(cookie), TEXT))
            case _:
                yield Rule((name,), (role,), rb"(%b)" % TEXT)


def _cookies(ours: bytes) -> bytes:
    """Match a line of plain cookies, and catch the value of ours if it is there."""
    another = rb"(?!%b)%b" % (re.escape(ours), _PAIR)
    before, after = rb"(?:%b;[ \t]*+)*" % another, rb"(?:;[ \t]*+%b)*" % another
    value = rb"%b=(?=%b%b\r)(%b)[^\r]*+" % (re.escape(ours), TOKEN_PATTERN, after, TOKEN_PATTERN)
    return rb"%b(?:%b|%b(?=\r))" % (before, value, another)


def _unless_caught(rule: Rule) -> bytes:
    """Match a value, if none of its fields has caught something already."""
    value = BLANKS + rule.value
    for field in rule.fields:
        value = rb"(?(%d)(?!)|%b)" % (_group(field), value)
    return value


def _group(field: str) -> int:
    """Only numbers can refer to a group that is not there yet."""
    return Head._fields.index(field) + 1


def _one_of(names: Iterable[bytes]) -> bytes:
    """Match one of the names in any case, looking at each letter once."""
    branches = [
        _in_any_case(first) + _one_of(name[1:] for name in group) if first else b""
        for first, group in groupby(sorted(names), lambda name: name[:1])
    ]
    return branches[0] if len(branches) == 1 else b"(?:%b)" % b"|".join(branches)


def _in_any_case(letter: bytes) -> bytes:
    # `re.IGNORECASE` takes twice as long.
    return b"[%b%b]" % (letter.upper(), letter) if letter.isalpha() else re.escape(letter)
