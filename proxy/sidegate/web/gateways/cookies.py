"""The session cookie in raw Cookie lines: found strictly, and removed from the others.

Nothing is decoded or unquoted. A pair ends at a semicolon, also inside quotes, as in browsers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidegate.web.server.header_lines import LINE_END, WHITESPACE

# Only SP and HTAB are whitespace: a name after any other blank is a different name.
_PAIR_SEPARATORS: Final = (b"", b";", b"\n")
_PAIR: Final = rb"%b(?:=([^;\r]*)|[ \t]*(?=[;\r]|\Z))"
# Blanks before the equals sign make it another name here, but the same one in many applications.
_OWN_PAIR: Final = rb"[ \t]*+%b[ \t]*+(?:=[^;]*+)?(?=;|\Z)"
BETWEEN_PAIRS: Final = b"; \t"
_OPENING_QUOTE: Final = re.compile(rb'=[ \t]*"')
# A value that begins with a quote, as parsers read it that know quotes, with and without escaped
# characters. A quote that is never closed opens nothing: the group is empty. Neither can fail once
# it has begun, so the time is linear.
_QUOTED_VALUES: Final = (
    re.compile(rb'=[ \t]*"[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)', re.DOTALL),
    re.compile(rb'=[ \t]*"[^"]*("|\Z)'),
)


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The session cookie, by its name."""

    name: bytes
    _pair: "re.Pattern[bytes]" = field(init=False, repr=False, compare=False)
    _first_own: "re.Pattern[bytes]" = field(init=False, repr=False, compare=False)
    _later_own: "re.Pattern[bytes]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = re.escape(self.name)
        object.__setattr__(self, "_pair", re.compile(_PAIR % name))
        object.__setattr__(self, "_first_own", re.compile(_OWN_PAIR % name + b";?"))
        object.__setattr__(self, "_later_own", re.compile(b";" + _OWN_PAIR % name))

    def read_values(self, lines: bytes) -> Sequence[bytes]:
        """Return the value of each session cookie."""
        return [(pair[1] or b"").rstrip(WHITESPACE) for pair in self._find_pairs(lines)]

    def is_quoted(self, lines: bytes) -> bool:
        """Return whether a session cookie stands between a quote that opens and one that closes."""
        if _OPENING_QUOTE.search(lines) is None:  # nearly always
            return False
        return any(
            _is_any_quoted([pair.start() for pair in self._find_pairs(line)], line)
            for line in lines.split(LINE_END)
        )

    def remove_from(self, lines: bytes) -> bytes:
        """Return one line of the other pairs, each as it was, in their order.

        Empty if only blanks and semicolons are left.
        """
        rest = (self._remove_from_line(line) for line in lines.split(LINE_END))
        return b"; ".join(filter(None, rest))

    def _remove_from_line(self, line: bytes) -> bytes:
        rest = self._later_own.sub(b"", line)
        first = self._first_own.match(rest)
        return _trim(rest if first is None else rest[first.end() :])

    def _find_pairs(self, lines: bytes) -> Iterator["re.Match[bytes]"]:
        """Yield each pair that begins with the cookie's name."""
        for match in self._pair.finditer(lines):
            if _begins_pair(lines, match.start()):
                yield match


def remove_pairs(line: bytes, is_removed: Callable[[bytes], bool]) -> bytes:
    """Return the line without the pairs for which `is_removed` is true."""
    return _trim(b";".join([pair for pair in line.split(b";") if not is_removed(pair)]))


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


def _begins_pair(lines: bytes, position: int) -> bool:
    while lines[position - 1 : position] in (b" ", b"\t"):
        position -= 1
    return lines[position - 1 : position] in _PAIR_SEPARATORS


def _trim(line: bytes) -> bytes:
    """Return the line without blanks around it; empty if it has no pair."""
    line = line.strip(WHITESPACE)
    return line if line.strip(BETWEEN_PAIRS) else b""
