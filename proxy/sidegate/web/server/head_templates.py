"""Read plain heads by their form: the lines that a gateway writes, in the order it writes them.

A gateway asks in one form, or in a few. The grammar's expression tries each line against every
header it knows; that of a form knows which line comes next, and takes half the time. Both read the
same head out of the same bytes.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

from sidegate.web.server.grammar import BLANKS, TEXT, Grammar, Rule
from sidegate.web.server.messages import Head

# Longer than any gateway's, and nothing in it is longer than aiohttp takes: 64 KiB.
_LONGEST: Final = 60_000

# A form whose names have more bytes together is not learnt: its expression would take too long to
# make, and megabytes.
_LONGEST_NAMES: Final = 2_000

# The price of a form is a millisecond. However often clients invent others, it is paid once for
# so many heads at the most.
_SELDOM: Final = 4_096

_NAMES: Final = re.compile(rb"\n([^:\r]++):")

_head: Final[Callable[[Iterable[object]], Head]] = partial(tuple.__new__, Head)
"""Head._make, without a detour through Python."""


class HeadTemplates:
    """The heads for one desk. Whatever comes first, all read alike."""

    def __init__(self, grammar: Grammar, *, most: int = 16, learn_every: int = 8) -> None:
        """Know at most so many forms: the oldest is forgotten for another.

        Of heads in another form than the last one, every so many is learnt from; with each form
        that took another one's place, half as often.
        """
        self._grammar = grammar
        self._most = most
        self._learn_every = learn_every
        self._unlike_the_last = 0
        self._known: OrderedDict[tuple[bytes, ...], _HeadTemplate] = OrderedDict()
        self._last, self._groups = _NO_FORM

    def read(self, data: bytes) -> Head | None:
        """Return the plain head that `data` is from end to end; None: it is none, or not alone."""
        if len(data) > _LONGEST:
            return None
        caught = self._last(data)
        if caught is not None:
            return _head(caught.group(*self._groups))
        caught = self._grammar.any_head.fullmatch(data)
        if caught is None:
            return None
        self._unlike_the_last += 1
        if self._unlike_the_last >= self._learn_every:
            self._unlike_the_last = 0
            self._learn(data)
        return _head(caught.groups())

    def first(self, data: bytes) -> tuple[Head, int] | None:
        """Return the plain head that `data` begins with, and where it ends."""
        caught = self._grammar.any_head.match(data)
        if caught is None or caught.end() > _LONGEST:
            return None
        return _head(caught.groups()), caught.end()

    def _learn(self, data: bytes) -> None:
        names = tuple(_NAMES.findall(data))
        if names not in self._known:
            if sum(map(len, names)) > _LONGEST_NAMES:
                return
            self._known[names] = form_of(names, self._grammar)
            if len(self._known) > self._most:
                self._learn_every = min(2 * self._learn_every, _SELDOM)
                self._known.popitem(last=False)
                re.purge()  # it keeps what was compiled, too
        self._last, self._groups = self._known[names]


class _HeadTemplate(NamedTuple):
    """What matches a head in this form, and which of its groups is which field of a Head."""

    match: Callable[[bytes], "re.Match[bytes] | None"]
    groups: Sequence[int]


def form_of(names: Sequence[bytes], grammar: Grammar) -> _HeadTemplate:
    """Return the form of a plain head with these header lines."""
    rules = [grammar.by_name.get(name.lower()) for name in names]
    caught = ["method", "target", "old"]
    caught += [field for rule in rules if rule is not None for field in rule.fields]
    if len(set(caught)) < len(caught):
        return _NO_FORM  # two cookie lines, of which either may hold ours
    group = {field: number for number, field in enumerate(caught, 1)}
    lines = (_line(name, rule) for name, rule in zip(names, rules, strict=True))
    old_closes = rb"(?(%d)|(?!))" % group["connection"] if "connection" in group else b"(?!)"
    # The last group, behind them all, never catches: it is for fields that no line here fills.
    nothing = len(caught) + 1
    pattern = rb"%b%b\r\n(?(%d)%b)((?!))?" % (
        grammar.start,
        b"".join(lines),
        group["old"],
        old_closes,
    )
    groups = tuple(group.get(field, nothing) for field in Head._fields)
    return _HeadTemplate(re.compile(pattern).fullmatch, groups)


def _line(name: bytes, rule: Rule | None) -> bytes:
    return rb"%b:%b\r\n" % (re.escape(name), TEXT if rule is None else BLANKS + rule.value)


_NO_FORM: Final = _HeadTemplate(lambda _: None, ())
