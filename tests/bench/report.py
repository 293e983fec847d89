"""Format results as text for a terminal, as Markdown for the docs, as a JSON document. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, assert_never

from tests.bench.catalogue import Metric, Unit, all_metrics
from tests.bench.goals import AtLeast, AtMost, AtMostTimes, Goal, Outcome
from tests.bench.run import Measurement, Results
from tests.bench.tails import Cell

Table = Sequence[Sequence[str]]
"""Rows of cells, of which the first is the header; two columns of text, then of numbers."""

# Share of its core below which a server was not the bottleneck.
_MIN_CORE_USAGE: Final = 0.9
_LIMITED_ELSEWHERE: Final = (
    "* The server did not use its whole core: the load generator, a store or another program on"
    " this machine was the bottleneck. The server alone reaches at least this rate."
)
_FORMATS: Final = {
    Unit.RATE: "{:,.0f} /s",
    Unit.MEGABYTES: "{:.1f} MB",
    Unit.SECONDS: "{:.2f} s",
    Unit.MILLISECONDS: "{:.1f} ms",
    Unit.NUMBER: "{:,.0f}",
}
_TAIL_HEAD: Final = (
    "name",
    "offered",
    "good",
    "CPU",
    "p50",
    "p99",
    "p99.9",
    "max",
    "503",
    "other failures",
    "sent late",
)
_VERDICTS: Final = {True: "met", False: "MISSED", None: "not measured"}


def format_text(results: Results, outcomes: Sequence[Outcome], machine: Mapping[str, str]) -> str:
    """Return the report for a terminal."""
    tables = [_align(table) for table in _tables(results, outcomes)]
    return "\n\n".join([*tables, *_notes(results), _format_machine(machine)])


def format_markdown(
    results: Results, outcomes: Sequence[Outcome], machine: Mapping[str, str]
) -> str:
    """Return the report for docs/performance.md."""
    tables = [_pipe(table) for table in _tables(results, outcomes)]
    notes = [note.replace("* ", "\\* ", 1) for note in _notes(results)]
    return "\n\n".join([*tables, *notes, _format_machine(machine)])


def build_document(
    results: Results, outcomes: Sequence[Outcome], machine: Mapping[str, str]
) -> dict[str, Any]:
    """Return a JSON document with the values of all rounds."""
    return {
        "machine": dict(machine),
        "measured": {
            metric.name: _to_document(metric, each) for metric, each in _measured_metrics(results)
        },
        "tails": {
            name: asdict(cell.sample) | {"cpu": cell.cpu} for name, cell in results.tails.items()
        },
        "goals": [
            {"goal": format_goal(each.goal), "value": each.value, "met": each.met}
            for each in outcomes
        ],
        "skipped": dict(results.skipped),
    }


def format_goal(goal: Goal) -> str:
    """Format a goal with the names of its metrics."""
    match goal:
        case AtLeast(of, ratio, reference):
            return f"{of} >= {ratio:.3g} x {reference}"
        case AtMostTimes(of, ratio, reference):
            return f"{of} <= {ratio:.3g} x {reference}"
        case AtMost(of, maximum):
            return f"{of} <= {maximum:g} {_unit(of)}".rstrip()
        case never:
            assert_never(never)


def _tables(results: Results, outcomes: Sequence[Outcome]) -> Iterator[Table]:
    if results.measured:
        head = ("name", "metric", "median", "lowest to highest", "CPU", "p99", "core")
        yield [head, *(_row(metric, each) for metric, each in _measured_metrics(results))]
    if results.tails:
        yield [_TAIL_HEAD, *(_tail_row(name, cell) for name, cell in results.tails.items())]
    if outcomes:
        yield [("goal", "measured", "verdict"), *(_goal_row(outcome) for outcome in outcomes)]


def _tail_row(name: str, cell: Cell) -> Sequence[str]:
    sample = cell.sample
    latencies = (sample.p50, sample.p99, sample.p999, sample.max)
    return (
        name,
        f"{sample.offered:,.0f} /s",
        f"{sample.goodput:,.0f} /s",
        f"{cell.cpu * 1e6:,.1f} µs",
        *(f"{seconds * 1e3:,.1f} ms" for seconds in latencies),
        f"{sample.unavailable:,}",
        f"{sample.failed:,}",
        f"{sample.late * 1e3:,.1f} ms",
    )


def _measured_metrics(results: Results) -> Iterator[tuple[Metric, Measurement]]:
    for metric in all_metrics():
        if metric.name in results.measured:
            yield metric, results.measured[metric.name]


def _row(metric: Metric, measured: Measurement) -> Sequence[str]:
    series, number_format = measured.series, _FORMATS[metric.unit]
    low, high = (number_format.format(value).split()[0] for value in (series.low, series.high))
    spread = f"{low} to {high}"
    return (
        metric.name,
        metric.title,
        number_format.format(series.median),
        spread if len(series.values) > 1 else "",
        "" if measured.cpu is None else f"{measured.cpu.median:,.1f} µs",
        "" if measured.p99 is None else f"{measured.p99.median:.1f} ms",
        _format_core_usage(measured),
    )


def _format_core_usage(measured: Measurement) -> str:
    mark = "*" if _is_limited_elsewhere(measured) else ""
    return "" if measured.core_usage is None else f"{measured.core_usage.median:.0%}{mark}"


def _goal_row(outcome: Outcome) -> Sequence[str]:
    value = "" if outcome.value is None else _measure(outcome.goal, outcome.value)
    return format_goal(outcome.goal), value, _VERDICTS[outcome.met]


def _measure(goal: Goal, value: float) -> str:
    return (
        _FORMATS[_unit(goal.metric)].format(value).strip()
        if isinstance(goal, AtMost)
        else f"{value:.3f} x"
    )


def _unit(name: str) -> Unit:
    """Return the unit of a metric. The figures of tails with an absolute goal are numbers."""
    return next((metric.unit for metric in all_metrics() if metric.name == name), Unit.NUMBER)


def _is_limited_elsewhere(measured: Measurement) -> bool:
    return measured.core_usage is not None and measured.core_usage.median < _MIN_CORE_USAGE


def _notes(results: Results) -> Iterator[str]:
    if any(_is_limited_elsewhere(measured) for measured in results.measured.values()):
        yield _LIMITED_ELSEWHERE
    for name, each in results.measured.items():
        if each.failed:
            yield f"{name}: {each.failed:.2%} of the requests failed, and are not counted."
    for name, each in results.measured.items():
        if each.batch_size is not None:
            yield f"{name}: {each.batch_size.median:.1f} hits in a round trip."
    for name, cell in results.tails.items():
        if cell.sample.missed:
            yield (
                f"{name}: {cell.sample.missed:,} more requests were due; the load generator was not"
                " fast enough."
            )
    for name, why in results.skipped.items():
        yield f"Skipped: {name} ({why})."


def _format_machine(machine: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in machine.items())


def _to_document(metric: Metric, measured: Measurement) -> dict[str, Any]:
    series = measured.series
    figures = {
        "title": metric.title,
        "unit": metric.unit.value,
        "median": series.median,
        "values": list(series.values),
    }
    if measured.cpu is not None:
        figures["cpu_us"] = list(measured.cpu.values)
    if measured.p99 is not None and measured.core_usage is not None:
        figures["p99_ms"] = list(measured.p99.values)
        figures["core"] = list(measured.core_usage.values)
        figures["failed"] = measured.failed
    if measured.batch_size is not None:
        figures["batch_size"] = list(measured.batch_size.values)
    return figures


def _align(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(_pad(row, widths).rstrip() for row in table)


def _pad(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.ljust(width) if number < 2 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    )


def _pipe(table: Table) -> str:
    head, *rows = table
    rule = ["---" if number < 2 else "---:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
