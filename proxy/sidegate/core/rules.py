"""Access rules: which requests need no session, and what a session needs for the others.

The table is pure. The first rule that matches a reading of a target (core/target.py) applies to it;
without one, a session is needed. A target with several readings has to satisfy the rule of each.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final, NamedTuple

from sidegate.core.requirement import ANY_SESSION, Access, Requirement, combine
from sidegate.core.target import Readings, fold


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. `name` is its label in metrics; None as a condition: any.

    `hosts` are names, or `*.example.com` for all names below. `paths` are patterns: `*` is any text
    without a slash, `/**` at the end is the path before it and every path below. A slash at the end
    of a path does not matter. GET stands for HEAD, too. `preflight`: OPTIONS is public for these
    hosts and paths. `shadow`: the rule is only counted.
    """

    name: str
    requirement: Requirement = ANY_SESSION
    hosts: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    preflight: bool = False
    shadow: bool = False


DEFAULT_RULE: Final = Rule("default")


class Decision(NamedTuple):
    """The rules that apply to a target, in the order of the table; never empty."""

    rules: tuple[Rule, ...]
    shadow: tuple[Rule, ...] = ()

    @property
    def requirement(self) -> Requirement:
        return combine(rule.requirement for rule in self.rules)


class RuleTable:
    """The rules in their order. `rules` ends with the default."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = (*rules, DEFAULT_RULE)
        self._rows = tuple(_Row(each) for rule in self.rules for each in _expand_preflight(rule))
        self._enforced = tuple(row for row in self._rows if not row.rule.shadow)

    @property
    def strictest(self) -> Decision:
        """The decision that allows only what every rule would allow."""
        shadow = tuple(row.rule for row in self._rows if row.rule.shadow)
        return Decision(tuple(row.rule for row in self._enforced), shadow)

    def list_simple(self) -> Sequence[Decision]:
        """Return the decisions of one rule, which nearly all targets have."""
        return [Decision((row.rule,)) for row in self._enforced]

    def find(self, readings: Readings) -> Decision:
        """Return the rules that apply to a target: at least one for each reading."""
        rules = _find(self._enforced, readings)
        if len(self._enforced) == len(self._rows):
            return Decision(rules)
        with_shadow = _find(self._rows, readings)
        return Decision(rules, tuple(rule for rule in with_shadow if rule.shadow))

    def find_for_path(self, readings: Readings, path: bytes) -> tuple[Rule, ...]:
        """Return the rules that apply to one reading of the path."""
        return _find(self._enforced, readings._replace(paths=(path,)))


def find_unreachable(rules: Sequence[Rule]) -> Iterator[tuple[int, int]]:
    """Yield the places of each rule that never applies, and of an earlier one that does instead.

    Only rules whose conditions are lists of the same or wider ones are found.
    """
    for place, rule in enumerate(rules):
        for earlier, other in enumerate(rules[:place]):
            if not other.shadow and _covers(other, rule):
                yield place, earlier
                break


def _covers(wide: Rule, narrow: Rule) -> bool:
    return (
        _each_within(narrow.hosts, wide.hosts, is_within=_is_host_within)
        and _each_within(narrow.paths, wide.paths, is_within=_is_path_within)
        and _each_within(narrow.methods, wide.methods, is_within=str.__eq__)
        and not (narrow.preflight and wide.methods is not None)
    )


def _each_within(
    narrow: Sequence[str] | None,
    wide: Sequence[str] | None,
    *,
    is_within: Callable[[str, str], bool],
) -> bool:
    if wide is None or narrow is None:
        return wide is None
    return all(any(is_within(one, other) for other in wide) for one in narrow)


def _is_host_within(host: str, other: str) -> bool:
    return host == other or (other.startswith("*.") and host.endswith(other[1:]))


def _is_path_within(path: str, other: str) -> bool:
    tree = other.removesuffix("/**")
    return path == other or (tree != other and f"{path}/".startswith(f"{tree}/"))


def _expand_preflight(rule: Rule) -> Iterator[Rule]:
    if rule.preflight:
        yield replace(rule, requirement=Requirement(Access.PUBLIC), methods=("OPTIONS",))
    yield rule


_Condition = Callable[[Any], object] | None
"""Returns whether it holds for a part of a reading. None: there is no condition on it."""

_Parts = tuple[str | bytes | None, ...]


class _Row:
    """A rule with its conditions on host, path and method, compiled."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        host, method = _match_host(rule.hosts), _match_method(rule.methods)
        self._exact = (host, _match_path(rule.paths), method)
        self._folded = (host, _match_path(rule.paths, prepare=fold), method)

    def matches(self, parts: _Parts, *, folded: bool) -> bool | None:
        """Return whether every condition holds. None: one depends on a part that is not known.

        `folded`: the path is folded, and so are the patterns.
        """
        is_certain = True
        for holds, part in zip(self._folded if folded else self._exact, parts, strict=True):
            if holds is None:
                continue
            if part is None:
                is_certain = False
            elif not holds(part):
                return False
        return True if is_certain else None


def _find(rows: Sequence[_Row], readings: Readings) -> tuple[Rule, ...]:
    """Return the rules of all readings, in the order of the table."""
    found: set[_Row] = set()
    for path, method in product(readings.paths or (None,), readings.methods or (None,)):
        found.update(_scan(rows, (readings.host, path, method)))
        if path is not None:
            found.update(_scan(rows, (readings.host, fold(path), method), folded=True))
    return tuple(row.rule for row in rows if row in found)


def _scan(rows: Iterable[_Row], parts: _Parts, *, folded: bool = False) -> Iterator[_Row]:
    """Yield every row that may be the first to match."""
    for row in rows:
        match = row.matches(parts, folded=folded)
        if match is not False:
            yield row
        if match:
            return


def _match_method(methods: tuple[str, ...] | None) -> _Condition:
    if methods is None:
        return None
    return frozenset((*methods, "HEAD") if "GET" in methods else methods).__contains__


def _match_host(hosts: tuple[str, ...] | None) -> _Condition:
    return None if hosts is None else re.compile("|".join(map(_translate_host, hosts))).fullmatch


def _match_path(
    paths: tuple[str, ...] | None, prepare: Callable[[bytes], bytes] = bytes
) -> _Condition:
    if paths is None:
        return None
    patterns = (_translate_path(prepare(path.encode("utf-8"))) for path in paths)
    return re.compile(b"|".join(patterns), re.DOTALL).fullmatch


def _translate_host(host: str) -> str:
    host = host.lower()
    return rf".+\.{re.escape(host[2:])}" if host.startswith("*.") else re.escape(host)


def _translate_path(path: bytes) -> bytes:
    """Return the regular expression of a pattern."""
    before, has_subtree = path.removesuffix(b"/**"), path.endswith(b"/**")
    end = rb"(?:/.*)?" if has_subtree else rb"/?"
    return b"/".join(map(_translate_segment, before.rstrip(b"/").split(b"/"))) + end


def _translate_segment(segment: bytes) -> bytes:
    return rb"[^/]+" if segment == b"*" else rb"[^/]*".join(map(re.escape, segment.split(b"*")))
