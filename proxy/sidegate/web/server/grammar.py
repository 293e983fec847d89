"""The strict grammar of a plain request to the gate, as a regular expression for a whole head.

The fast path answers what it matches; aiohttp's parser would read the same values. What it does not
match may still be valid: aiohttp decides.

A plain head has any method but CONNECT, one of the gate's paths, HTTP/1.1 (or 1.0 with `Connection:
close`), exactly one Host, header lines of a strict alphabet, and neither a body nor an upgrade. A
header with a role occurs at most once, and so do those that aiohttp accepts only once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from sidegate.core.token import TOKEN_PATTERN
from sidegate.web.server.header_lines import PlainForms, Roles
from sidegate.web.server.messages import Head
from sidegate.web.server.request_rules import HOST, TOKEN_CHAR

OPTIONAL_WHITESPACE: Final = rb"[ \t]*+"
FIELD_VALUE: Final = rb"[\t -~\x80-\xff]{0,60000}+"

# Possessive quantifiers are used on single character classes only: before 3.11.5, Python compiles
# possessive groups wrongly (CPython issue 106052). A group captures only what is certain to match.

# Below the listener's limits: 256 lines of 64 KiB, and a target of 32 KiB.
_MAX_LINES: Final = 200
# Browsers have at most 180. Before and after the session cookie; each costs as much as a line.
_MAX_COOKIES: Final = 250
_METHOD: Final = rb"(?!CONNECT )%b{1,32}+" % TOKEN_CHAR
_TARGET: Final = rb"[!\"$-~]{0,8000}+"  # without a fragment
_NAME: Final = rb"%b{1,1000}+" % TOKEN_CHAR
_COOKIE_PAIR: Final = rb"[\t !#-:<-~\x80-\xff]{0,60000}+"  # without quotes and semicolons
_NO_MATCH: Final = rb"\0(?!)"  # fails at the first byte

# aiohttp's parser accepts each of these once ...
_UNIQUE: Final = {"host": b"host", "user_agent": b"user-agent", "content_type": b"content-type"}
# ... and each of these, which are unused here. They are so rare that a plain head has at most one
# of them all.
_RARE: Final = (
    b"content-location", b"content-range", b"etag", b"max-forwards", b"server",
)  # fmt: skip
# aiohttp acts on these: a head with one of them is not plain.
_REFUSED: Final = (
    b"content-encoding", b"expect", b"proxy-connection", b"sec-websocket-key1",
    b"transfer-encoding", b"upgrade",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """The pattern of a header's value. Its groups capture these fields of Head, in this order."""

    names: tuple[bytes, ...]
    fields: tuple[str, ...]
    value: bytes


class Grammar:
    """The header rules of one request handler, and the pattern compiled from them."""

    def __init__(self, route: str, roles: Roles, *, plain: PlainForms) -> None:
        """Raise ValueError if one header has two roles: then only the aiohttp path can serve it."""
        self._rules = tuple(_rules({**_UNIQUE, **roles}, plain))
        names = [name for rule in self._rules for name in rule.names] + [*_REFUSED]
        if len(set(names)) < len(names):
            raise ValueError("one header has two roles")
        self.request_line = rb"(%b) (%b) HTTP/1\.(?:1|(0))\r\n" % (_METHOD, _target(route))
        self.rules_by_name: Mapping[bytes, HeaderRule] = {
            name: rule for rule in self._rules for name in rule.names
        }
        self.head_pattern = re.compile(self.request_line + self._any_lines(names))

    def _any_lines(self, known: Iterable[bytes]) -> bytes:
        """Match header lines in any order. The groups are in the order of Head's fields."""
        lines = [*self._known_lines(), rb"(?!%b:)%b:%b" % (_any_of(known), _NAME, FIELD_VALUE)]
        has_host = rb"(?(%d)|(?!))" % _group("host")
        http10_closes = rb"(?(%d)(?(%d)|(?!)))" % (_group("is_http10"), _group("connection"))
        alternatives = b"|".join(lines)
        repeated = rb"(?:(?:%b)\r\n){1,%d}\r\n" % (alternatives, _MAX_LINES)
        return repeated + has_host + http10_closes

    def _known_lines(self) -> Iterator[bytes]:
        rules = {rule.fields[0]: rule for rule in self._rules}
        captured = {field for rule in self._rules for field in rule.fields}
        for field in Head._fields[Head._fields.index("host") :]:
            if field in rules:
                rule = rules[field]
                yield rb"%b:%b" % (_any_of(rule.names), _once(rule))
            elif field not in captured:
                yield _NO_MATCH + b"()"  # keeps the numbers of the groups


def _target(route: str) -> bytes:
    follows = b"[/?]" if route.endswith("/") else b"\\?"
    return rb"%b(?:%b%b)?" % (re.escape(route.rstrip("/").encode("ascii")), follows, _TARGET)


def _rules(names: Roles, plain: PlainForms) -> Iterator[HeaderRule]:
    keep_alive = rb"(?(%d)(?!)|[Kk]eep-[Aa]live)" % _group("is_http10")
    yield HeaderRule((b"connection",), ("connection",), rb"([Cc]lose|%b)" % keep_alive)
    yield HeaderRule((b"content-length",), ("content_length",), rb"(0)")
    yield HeaderRule(_RARE, ("rare",), rb"(%b)" % FIELD_VALUE)
    for role, name in names.items():
        match role:
            case "authorization" if plain.bearer:
                # A value in the token format needs no further parsing.
                bearer = rb"[Bb]earer[ ]++(?=%b\r)(%b)" % (TOKEN_PATTERN, TOKEN_PATTERN)
                yield HeaderRule((name,), ("bearer", role), rb"(?:%b|(%b))" % (bearer, FIELD_VALUE))
            case "cookie" if plain.cookie is not None:
                # Neither do unquoted cookies of which at most one is the session cookie.
                cookies, fields = _cookies(plain.cookie), ["session_cookie", role]
                if plain.all_cookies:
                    cookies, fields = b"(%b)" % cookies, ["cookies", *fields]
                value = rb"(?:%b|(%b))" % (cookies, FIELD_VALUE)
                yield HeaderRule((name,), tuple(fields), value)
            case "host":
                yield HeaderRule((name,), (role,), rb"(%b)%b" % (HOST, OPTIONAL_WHITESPACE))
            case _:
                yield HeaderRule((name,), (role,), rb"(%b)" % FIELD_VALUE)


def _cookies(name: bytes) -> bytes:
    """Match a line of plain cookies, and capture the session cookie's value if present."""
    another = rb"(?!%b)%b" % (re.escape(name), _COOKIE_PAIR)
    before = rb"(?:%b;[ \t]*+){0,%d}" % (another, _MAX_COOKIES)
    after = rb"(?:;[ \t]*+%b){0,%d}" % (another, _MAX_COOKIES)
    value = rb"%b=(?=%b%b\r)(%b)[^\r]*+" % (re.escape(name), TOKEN_PATTERN, after, TOKEN_PATTERN)
    return rb"%b(?:%b|%b(?=\r))" % (before, value, another)


def _once(rule: HeaderRule) -> bytes:
    """Match a value unless one of its fields has been captured before."""
    value = OPTIONAL_WHITESPACE + rule.value
    for field in rule.fields:
        value = rb"(?(%d)(?!)|%b)" % (_group(field), value)
    return value


def _group(field: str) -> int:
    """Return a group's number: a reference by name would have to follow the group."""
    return Head._fields.index(field) + 1


def _any_of(names: Iterable[bytes]) -> bytes:
    """Match one of the names in any case, by common prefixes."""
    branches = [
        _in_any_case(first) + _any_of(name[1:] for name in group) if first else b""
        for first, group in groupby(sorted(names), lambda name: name[:1])
    ]
    return branches[0] if len(branches) == 1 else b"(?:%b)" % b"|".join(branches)


def _in_any_case(letter: bytes) -> bytes:
    # Twice as fast as `re.IGNORECASE`.
    return b"[%b%b]" % (letter.upper(), letter) if letter.isalpha() else re.escape(letter)
