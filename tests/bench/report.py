"""Findings as text for a terminal, as Markdown for the docs, as a document for programs. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, assert_never

from tests.bench.catalogue import Thing, Unit, things
from tests.bench.goals import AtLeast, AtMost, Goal, Outcome
from tests.bench.run import Findings, Measured

Table = Sequence[Sequence[str]]
"""Rows of cells, of which the first is the head; two columns of text, then of figures."""

# A server that used less of its core has waited for the load generator, or for strangers.
_SATURATED: Final = 0.9
_WAITED: Final = (
    "* The server did not use its whole core: somebody else on this machine, the load generator or"
    " a store was the limit. Alone it does at least as much."
)
_FORMATS: Final = {
    Unit.RATE: "{:,.0f} /s",
    Unit.MEGABYTES: "{:.1f} MB",
    Unit.SECONDS: "{:.2f} s",
    Unit.MILLISECONDS: "{:.1f} ms",
}
_VERDICTS: Final = {True: "met", False: "MISSED", None: "not measured"}


def text(findings: Findings, outcomes: Sequence[Outcome], machine: Mapping[str, str]) -> str:
    """Return everything for a terminal."""
    tables = [_aligned(table) for table in _tables(findings, outcomes)]
    return "\n\n".join([*tables, *_notes(findings), _told(machine)])


def markdown(findings: Findings, outcomes: Sequence[Outcome], machine: Mapping[str, str]) -> str:
    """Return everything for docs/performance.md."""
    tables = [_piped(table) for table in _tables(findings, outcomes)]
    notes = [note.replace("* ", "\\* ", 1) for note in _notes(findings)]
    return "\n\n".join([*tables, *notes, _told(machine)])


def document(
    findings: Findings, outcomes: Sequence[Outcome], machine: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that JSON can hold: the values of all rounds, in the unit they name."""
    return {
        "machine": dict(machine),
        "measured": {thing.name: _figures(thing, each) for thing, each in _found(findings)},
        "goals": [
            {"goal": wording(each.goal), "value": each.value, "met": each.met} for each in outcomes
        ],
        "left_out": dict(findings.left_out),
    }


def wording(goal: Goal) -> str:
    """Say what is wanted, in the names of the catalogue."""
    match goal:
        case AtLeast(of, times, against):
            return f"{of} >= {times:.2f} x {against}"
        case AtMost(of, most):
            return f"{of} <= {most:g} {_unit(of)}"
        case never:
            assert_never(never)


def _tables(findings: Findings, outcomes: Sequence[Outcome]) -> Iterator[Table]:
    if findings.measured:
        head = ("name", "what", "median", "lowest to highest", "p99", "core")
        yield [head, *(_row(thing, each) for thing, each in _found(findings))]
    if outcomes:
        yield [("goal", "measured", "verdict"), *(_goal_row(outcome) for outcome in outcomes)]


def _found(findings: Findings) -> Iterator[tuple[Thing, Measured]]:
    for thing in things():
        if thing.name in findings.measured:
            yield thing, findings.measured[thing.name]


def _row(thing: Thing, measured: Measured) -> Sequence[str]:
    series, shape = measured.series, _FORMATS[thing.unit]
    spread = f"{shape.format(series.low).split()[0]} to {shape.format(series.high).split()[0]}"
    return (
        thing.name,
        thing.title,
        shape.format(series.median),
        spread if len(series.values) > 1 else "",
        "" if measured.p99 is None else f"{measured.p99.median:.1f} ms",
        _share(measured),
    )


def _share(measured: Measured) -> str:
    mark = "*" if _waited(measured) else ""
    return "" if measured.busy is None else f"{measured.busy.median:.0%}{mark}"


def _goal_row(outcome: Outcome) -> Sequence[str]:
    value = "" if outcome.value is None else _measure(outcome.goal, outcome.value)
    return wording(outcome.goal), value, _VERDICTS[outcome.met]


def _measure(goal: Goal, value: float) -> str:
    return f"{value:.3f} x" if isinstance(goal, AtLeast) else _FORMATS[_unit(goal.of)].format(value)


def _unit(name: str) -> Unit:
    return next(thing.unit for thing in things() if thing.name == name)


def _waited(measured: Measured) -> bool:
    return measured.busy is not None and measured.busy.median < _SATURATED


def _notes(findings: Findings) -> Iterator[str]:
    if any(_waited(measured) for measured in findings.measured.values()):
        yield _WAITED
    for name, each in findings.measured.items():
        if each.failed:
            yield f"{name}: {each.failed:.2%} of the requests failed, and are not counted."
    for name, each in findings.measured.items():
        if each.batch_size is not None:
            yield f"{name}: {each.batch_size.median:.1f} hits in a round trip."
    for name, why in findings.left_out.items():
        yield f"Left out: {name} ({why})."


def _told(machine: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in machine.items())


def _figures(thing: Thing, measured: Measured) -> dict[str, Any]:
    series = measured.series
    figures = {
        "title": thing.title,
        "unit": thing.unit.value,
        "median": series.median,
        "values": list(series.values),
    }
    if measured.p99 is not None and measured.busy is not None:
        figures["p99_ms"] = list(measured.p99.values)
        figures["core"] = list(measured.busy.values)
        figures["failed"] = measured.failed
    if measured.batch_size is not None:
        figures["batch_size"] = list(measured.batch_size.values)
    return figures


def _aligned(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(_padded(row, widths).rstrip() for row in table)


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.ljust(width) if number < 2 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    )


def _piped(table: Table) -> str:
    head, *rows = table
    rule = ["---" if number < 2 else "---:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
