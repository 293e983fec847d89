"""Log events: constant names with fields, and each is in docs/reference/events.md as logged."""

import ast
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "proxy/sidegate"
PAGE: Final = ROOT / "docs/reference/events.md"

# The level of each method of a logger that may be called.
LEVELS: Final = {name: name for name in ("debug", "info", "warning", "error")} | {
    "exception": "error"
}
# Log calls that have another form: the configuration of logging itself.
EXEMPT: Final = {SOURCE / "observability/logs.py"}
# A field of one of these names would overwrite a part of the line, or make the call fail.
RESERVED: Final = {*vars(logging.makeLogRecord({})), "message", "asctime"} | {
    "timestamp",
    "level",
    "logger",
    "event",
}

_EVENT: Final = re.compile(r"[a-z]+( [a-z]+)*")


@dataclass(frozen=True)
class LogCall:
    """One log call. `open`: it has fields that only the running program knows."""

    event: str
    level: str
    logger: str
    fields: frozenset[str]
    open: bool


@dataclass(frozen=True)
class Event:
    """What the page says about one event."""

    level: str
    loggers: frozenset[str]
    fields: frozenset[str]
    meaning: str
    advice: str


class BadLogCallError(Exception):
    """A log call that is no event name with fields."""


def find_log_calls(source: str) -> Iterator[LogCall]:
    """Yield the log calls of a module. Raise BadLogCallError for one of another form."""
    tree = ast.parse(source)
    loggers = dict(_loggers(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name(name), method)) if name in loggers:
                if method != "isEnabledFor":
                    yield _read_call(node, method, loggers[name])
            case ast.Call(func=ast.Attribute(_, method), args=[_, *_]) if method in LEVELS:
                raise BadLogCallError(f"{node.lineno}: not a logger of this module")


def _loggers(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that hold a logger, with the logger's own name."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.AnnAssign(target=ast.Name(name), value=ast.Call() as call)
                | ast.Assign(targets=[ast.Name(name)], value=ast.Call() as call)
            ) if ast.unparse(call.func) == "logging.getLogger":
                yield name, ast.literal_eval(call.args[0])


def _read_call(call: ast.Call, method: str, logger: str) -> LogCall:
    level = LEVELS.get(method)
    if level is None:
        raise BadLogCallError(f"{call.lineno}: {method} is not one of {', '.join(LEVELS)}")
    match call.args:
        case [ast.Constant(str(event))] if _EVENT.fullmatch(event):
            pass
        case _:
            raise BadLogCallError(f"{call.lineno}: the event is not one constant lower case name")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    fields, is_open = _read_fields(keywords.pop("extra", ast.Dict([], [])))
    if keywords.pop("exc_info", None) is not None or method == "exception":
        fields |= {"exception"}
    if keywords:
        raise BadLogCallError(f"{call.lineno}: unexpected {', '.join(map(str, keywords))}")
    return LogCall(event, level, logger, fields, is_open)


def _read_fields(extra: ast.expr) -> tuple[frozenset[str], bool]:
    if not isinstance(extra, ast.Dict):
        raise BadLogCallError(f"{extra.lineno}: the fields are not written in the call")
    names = set()
    for key in extra.keys:
        match key:
            case ast.Constant(str(name)) if name not in RESERVED:
                names.add(name)
            case None:
                continue
            case _:
                raise BadLogCallError(f"{extra.lineno}: {ast.unparse(key)} cannot be a field")
    return frozenset(names), None in extra.keys


def logged() -> Mapping[str, list[LogCall]]:
    """Return the log calls of the program by event."""
    found: dict[str, list[LogCall]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        if path in EXEMPT:
            continue
        for call in find_log_calls(path.read_text("utf-8")):
            found.setdefault(call.event, []).append(call)
    return found


def documented() -> Mapping[str, Event]:
    """Return the events of the page."""
    events: dict[str, Event] = {}
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 6 or not cells[0].startswith("`"):
            continue
        event, level, loggers, fields, meaning, advice = cells
        name = event.strip("`")
        assert name not in events, f"{name} is there twice"
        events[name] = Event(level, _quoted(loggers), _quoted(fields), meaning, advice)
    return events


def _quoted(cell: str) -> frozenset[str]:
    return frozenset(re.findall(r"`([^`]+)`", cell))


LOGGED: Final = logged()
DOCUMENTED: Final = documented()


def test_page_has_the_events_that_are_logged() -> None:
    assert sorted(DOCUMENTED) == sorted(LOGGED)


@pytest.mark.parametrize("name", sorted(LOGGED.keys() & DOCUMENTED.keys()))
def test_page_has_the_level_the_logger_and_the_fields_of_an_event(name: str) -> None:
    calls, event = LOGGED[name], DOCUMENTED[name]
    assert {call.level for call in calls} == {event.level}
    assert {call.logger for call in calls} == event.loggers
    fields = frozenset[str]().union(*(call.fields for call in calls))
    if any(call.open for call in calls):
        assert fields < event.fields
    else:
        assert fields == event.fields
    assert event.meaning
    assert event.advice


@pytest.mark.parametrize("function", ["log_change", "watch_job"])
def test_page_names_every_action_of_a_change_and_every_job(function: str) -> None:
    """Both functions log one event for several subjects, whose names are arguments."""
    names = {
        argument
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function
        for argument in _constants(node.args)
    }
    assert names
    assert names <= _quoted(PAGE.read_text("utf-8"))


def _constants(arguments: list[ast.expr]) -> Iterator[str]:
    for argument in arguments:
        match argument:
            case ast.Constant(str(value)):
                yield value


@pytest.mark.parametrize(
    "call",
    [
        '_log.info(f"{name} open")',
        "_log.info(name)",
        '_log.info("%s open", name)',
        '_log.info("listener " + name)',
        '_log.info("Ready.")',
        "_log.info()",
        '_log.critical("the disk is full")',
        '_log.log(10, "ready")',
        '_log.info("ready", extra=fields)',
        '_log.info("ready", extra={name: 1})',
        '_log.info("ready", extra={"name": 1})',
        '_log.info("ready", extra={"event": 1})',
        '_log.info("ready", stack_info=True)',
        'logging.info("ready")',
        'logging.getLogger("other").info("ready")',
        'self._log.info("ready")',
    ],
)
def test_log_call_of_another_form_is_refused(call: str) -> None:
    with pytest.raises(BadLogCallError):
        list(find_log_calls(f'_log = logging.getLogger("sidegate")\n{call}'))


def test_log_call_is_read_with_its_fields() -> None:
    source = """
_log: Final = logging.getLogger("sidegate.part")
_log.warning("it failed", exc_info=error, extra={"reason": str(error), **fields})
"""
    assert list(find_log_calls(source)) == [
        LogCall("it failed", "warning", "sidegate.part", frozenset({"reason", "exception"}), True)
    ]
