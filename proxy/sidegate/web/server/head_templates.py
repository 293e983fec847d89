"""Parse plain heads by template: the header names that a gateway sends, in its order.

A gateway sends one sequence of names, or a few. The grammar's pattern tries each line against every
known header; a template's pattern knows the next name and takes half the time. Both parse the same
head from the same bytes.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

from sidegate.web.server.grammar import FIELD_VALUE, OPTIONAL_WHITESPACE, Grammar, HeaderRule
from sidegate.web.server.messages import Head

# Longer than any gateway's, and below aiohttp's limit of 64 KiB for each part.
_MAX_HEAD_SIZE: Final = 60_000

# No template for names of more bytes in total: its pattern would take too long to compile, and
# megabytes.
_MAX_NAMES_SIZE: Final = 2_000

# A template takes a millisecond to compile. If clients keep inventing names, that is spent at most
# once for this many heads.
_MAX_SAMPLING_INTERVAL: Final = 4_096

_NAME_PATTERN: Final = re.compile(rb"\n([^:\r]++):")

_make_head: Final[Callable[[Iterable[object]], Head]] = partial(tuple.__new__, Head)
"""Head._make, without its Python frame."""


class HeadTemplates:
    """The head parser of one request handler. Results do not depend on what is cached."""

    def __init__(
        self, grammar: Grammar, *, max_templates: int = 16, sampling_interval: int = 8
    ) -> None:
        """Cache at most `max_templates`; the oldest is evicted.

        Every `sampling_interval`-th head that does not match the current template selects or adds
        its own. Each eviction doubles the interval.
        """
        self._grammar = grammar
        self._max_templates = max_templates
        self._sampling_interval = sampling_interval
        self._skipped = 0
        self._templates: OrderedDict[tuple[bytes, ...], _HeadTemplate] = OrderedDict()
        self._match, self._groups = _NO_TEMPLATE

    def parse(self, data: bytes) -> Head | None:
        """Return the plain head, or None if `data` is not exactly one."""
        if len(data) > _MAX_HEAD_SIZE:
            return None
        match = self._match(data)
        if match is not None:
            return _make_head(match.group(*self._groups))
        match = self._grammar.head_pattern.fullmatch(data)
        if match is None:
            return None
        self._skipped += 1
        if self._skipped >= self._sampling_interval:
            self._skipped = 0
            self._add_template(data)
        return _make_head(match.groups())

    def parse_first(self, data: bytes) -> tuple[Head, int] | None:
        """Return the plain head that `data` begins with and its length, or None."""
        match = self._grammar.head_pattern.match(data)
        if match is None or match.end() > _MAX_HEAD_SIZE:
            return None
        return _make_head(match.groups()), match.end()

    def _add_template(self, data: bytes) -> None:
        names = tuple(_NAME_PATTERN.findall(data))
        if names not in self._templates:
            if sum(map(len, names)) > _MAX_NAMES_SIZE:
                return
            self._templates[names] = compile_template(names, self._grammar)
            if len(self._templates) > self._max_templates:
                self._sampling_interval = min(2 * self._sampling_interval, _MAX_SAMPLING_INTERVAL)
                self._templates.popitem(last=False)
                re.purge()  # its cache keeps evicted patterns, too
        self._match, self._groups = self._templates[names]


class _HeadTemplate(NamedTuple):
    """A compiled pattern's fullmatch, and the group of each field of Head."""

    match: Callable[[bytes], "re.Match[bytes] | None"]
    groups: Sequence[int]


def compile_template(names: Sequence[bytes], grammar: Grammar) -> _HeadTemplate:
    """Return the template of a plain head with these header names."""
    rules = [grammar.rules_by_name.get(name.lower()) for name in names]
    fields = ["method", "target", "is_http10"]
    fields += [field for rule in rules if rule is not None for field in rule.fields]
    if len(set(fields)) < len(fields):
        return _NO_TEMPLATE  # two cookie lines, and either may contain the session cookie
    group = {field: number for number, field in enumerate(fields, 1)}
    lines = (_line_pattern(name, rule) for name, rule in zip(names, rules, strict=True))
    http10_closes = rb"(?(%d)|(?!))" % group["connection"] if "connection" in group else b"(?!)"
    # The last group never captures: it stands for the fields that no line here sets.
    unset = len(fields) + 1
    pattern = rb"%b%b\r\n(?(%d)%b)((?!))?" % (
        grammar.request_line,
        b"".join(lines),
        group["is_http10"],
        http10_closes,
    )
    groups = tuple(group.get(field, unset) for field in Head._fields)
    return _HeadTemplate(re.compile(pattern).fullmatch, groups)


def _line_pattern(name: bytes, rule: HeaderRule | None) -> bytes:
    return rb"%b:%b\r\n" % (
        re.escape(name),
        FIELD_VALUE if rule is None else OPTIONAL_WHITESPACE + rule.value,
    )


_NO_TEMPLATE: Final = _HeadTemplate(lambda _: None, ())
