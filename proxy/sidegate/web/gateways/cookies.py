"""The session cookie in raw Cookie lines: found strictly, and removed from the others.

Nothing is decoded or unquoted. A pair ends at a semicolon, also inside quotes, as in browsers.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sidegate.web.server.header_lines import LINE_END, WHITESPACE

# Only SP and HTAB are whitespace: a name after any other blank is a different name.
_PAIR_SEPARATORS: Final = (b"", b";", b"\n")
_PAIR: Final = rb"%b(?:=([^;\r]*+)|[ \t]*+(?=[;\r]|\Z))"
# Blanks before the equals sign make it another name here, but the same one in many applications.
_OWN_PAIR: Final = rb"[ \t]*+%b[ \t]*+(?:=[^;]*+)?(?=;|\Z)"
BETWEEN_PAIRS: Final = b"; \t"
_OPENING_QUOTE: Final = re.compile(rb'=[ \t]*+"')
# A value that begins with a quote, as parsers read it that know quotes, with and without escaped
# characters. A quote that is never closed on its line opens nothing: the group is no quote. Neither
# can fail once it has begun, so the time is linear.
_QUOTED_VALUES: Final = (
    re.compile(rb'=[ \t]*+"[^"\\\r]*+(?:\\[^\r][^"\\\r]*+)*("|\\?(?=\r|\Z))'),
    re.compile(rb'=[ \t]*+"[^"\r]*+("|(?=\r|\Z))'),
)
# Browsers store at most 180 cookies of a domain. More are not read one by one.
_MAX_PARSED: Final = 256


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

    def is_ambiguous(self, lines: bytes) -> bool:
        """Return whether parsers can disagree on which session cookies there are.

        One stands between a quote that opens and one that closes, or there are too many to say.
        """
        if len(lines) > _MAX_PARSED * len(self.name) and _has_too_many(self._pair, lines):
            return True
        if _OPENING_QUOTE.search(lines) is None:  # nearly always
            return False
        positions = [pair.start() for pair in self._find_pairs(lines)]
        return bool(positions) and (
            _has_too_many(_OPENING_QUOTE, lines) or _is_any_quoted(positions, lines)
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
        end = 0
        for match in self._pair.finditer(lines):
            before = lines[end : match.start()].rstrip(WHITESPACE)
            if before[-1:] in _PAIR_SEPARATORS:
                yield match
            end = match.end()


def remove_pairs(line: bytes, texts: Iterable[bytes]) -> bytes:
    """Return the line without the pairs that contain one of `texts`, which have no semicolon."""
    for text in texts:
        line = b"".join(_split_around(line, text))
    return _trim(line)


def _split_around(line: bytes, text: bytes) -> Iterator[bytes]:
    """Yield what is between the pairs that contain `text`."""
    end = 0
    while (position := line.find(text, end)) >= 0:
        separator = line.rfind(b";", end, position)
        yield line[end : max(end, separator)]
        next_separator = line.find(b";", position)
        if next_separator < 0:
            return
        end = next_separator + (separator < 0)  # before the first pair that is left, there is none
    yield line[end:]


def _has_too_many(pattern: "re.Pattern[bytes]", lines: bytes) -> bool:
    """Return whether the pattern matches more often than is parsed."""
    return next(islice(pattern.finditer(lines), _MAX_PARSED, None), None) is not None


def _is_any_quoted(positions: Sequence[int], lines: bytes) -> bool:
    """Return whether any of these ascending positions is inside a quoted value."""
    return any(_is_inside(positions, pattern.finditer(lines)) for pattern in _QUOTED_VALUES)


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


def _trim(line: bytes) -> bytes:
    """Return the line without blanks around it; empty if it has no pair."""
    line = line.strip(WHITESPACE)
    return line if line.strip(BETWEEN_PAIRS) else b""
