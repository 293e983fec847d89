"""Histories are written as they happen, and read as they were written."""

import json
from pathlib import Path

import pytest

from tests.faults import made_up
from tests.faults.history import Entry, Record, Result, Road, read

ENTRIES: tuple[Entry, ...] = (
    made_up.create(0.5, limit=3),
    made_up.allowed(1.0, last=True),
    made_up.unavailable(1.5, status=0, left=True),
    made_up.refresh(2.0),
    made_up.revoke(3.0, Result.INFO),
    made_up.listing(4.0, "s1", "s2"),
    made_up.fault(5.0, 6.0, starving=True),
    made_up.hurt(5.0, 6.0),
    made_up.dark(5.0, 6.0),
    made_up.forgotten(5.0),
    made_up.stall(5.0, 6.0, 0.5),
    made_up.living(3),
    made_up.event("create", 1),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_what_is_noted_is_read_again(path: Path) -> None:
    with Record(path) as record:
        for entry in ENTRIES:
            record.note(entry)
    assert tuple(read(path)) == ENTRIES


def test_a_line_is_json_that_says_what_it_is(path: Path) -> None:
    with Record(path) as record:
        record.note(made_up.revoke(3.0))
    line = json.loads(path.read_text())
    assert (line["kind"], line["start"], line["result"]) == ("revoke", 3.0, "ok")


def test_what_no_later_entry_depends_on_is_forgotten_but_stays_in_the_file(path: Path) -> None:
    kept = [made_up.create(0.0), made_up.refused(2.0, Road.OVER), made_up.fault(1.0, 2.0)]
    with Record(path) as record:
        for entry in (*kept, made_up.allowed(1.0), made_up.refused(1.0, Road.FORGED)):
            record.note(entry)
        record.forget_checks()
        assert record.entries == kept
    assert len(list(read(path))) == 5


def test_time_that_others_had_the_cpu_is_added_up(path: Path) -> None:
    with Record(path) as record:
        for who, waited in (("one", 0.5), ("rig", 0.25), ("one", 0.25)):
            record.note(made_up.stall(1.0, 2.0, waited, who))
        assert record.stalled == {"one": 0.75, "rig": 0.25}
