"""Seals: their record, their namespace, and what replaces them."""

from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.change_log import Mark
from sidegate.core.errors import UnreadableRecord
from sidegate.core.seal import Seal, build_prefix, read_namespace
from sidegate.core.snapshot import Snapshot

ID: Final = UUID("018c2d3e-4f50-7162-8394-a5b6c7d8e9f0")
MARK: Final = Mark(Snapshot(90, 100, frozenset({90, 95})), "7423", ID)
SEAL: Final = Seal("0123456789abcdef", MARK, "fedcba9876543210")
RECORD: Final = (
    b"1 0123456789abcdef 90:100:90,95 018c2d3e-4f50-7162-8394-a5b6c7d8e9f0 7423 fedcba9876543210"
)


def test_record_has_the_version_namespace_snapshot_id_system_and_revision() -> None:
    assert SEAL.encode() == RECORD
    assert Seal.decode(RECORD) == SEAL


def test_record_without_transactions_in_progress_is_decoded() -> None:
    seal = Seal.begin(replace(MARK, snapshot=Snapshot(100, 100)))
    assert Seal.decode(seal.encode()) == seal


UNREADABLE: Final[dict[str, bytes]] = {
    "empty": b"",
    "text": b"hello",
    "other version": b"2" + RECORD[1:],
    "no version": RECORD[2:],
    "short namespace": RECORD.replace(b"ef ", b" "),
    "namespace that is no number": RECORD.replace(b"0123", b"ghij"),
    "snapshot without an end": RECORD.replace(b"90:100:90,95", b"90:100"),
    "snapshot in another order": RECORD.replace(b"90,95", b"95,90"),
    "no snapshot": RECORD.replace(b"90:100:90,95 ", b""),
    "no id": RECORD.replace(str(ID).encode(), b"None"),
    "id in another form": RECORD.replace(str(ID).encode(), ID.hex.encode()),
    "no system": RECORD.replace(b"7423 ", b""),
    "no revision": RECORD.removesuffix(b" fedcba9876543210"),
    "short revision": RECORD[:-2],
    "space in the namespace": RECORD.replace(b"ef ", b"ef\n "),
    "space in the revision": RECORD + b"\n",
    "negative transaction": RECORD.replace(b"90:100:90,95", b"-1:-1:"),
    "transaction beyond 63 bits": RECORD.replace(b"90:100:90,95", b"9:18446744073709551616:"),
    "transaction in progress before the first": RECORD.replace(b"90,95", b"9,95"),
    "snapshot that ends before it begins": RECORD.replace(b"90:100:90,95", b"100:90:"),
    "revision cut off": RECORD[:-1],
    "in capitals": RECORD.upper(),
    "more behind it": RECORD + b" x",
    "line feed behind the snapshot": RECORD.replace(b"95 ", b"95\n "),
    "no ASCII": RECORD + b"\xff",
}


@pytest.mark.parametrize("record", UNREADABLE.values(), ids=UNREADABLE)
def test_other_record_is_unreadable(record: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        Seal.decode(record)


def decodes_exactly(record: bytes) -> bool:
    """Return whether the record is unreadable, or that of the decoded seal."""
    try:
        return Seal.decode(record).encode() == record
    except UnreadableRecord:
        return True


@given(st.binary(max_size=100))
def test_any_record_is_decoded_exactly_or_unreadable(record: bytes) -> None:
    assert decodes_exactly(record)


@given(st.integers(0, len(RECORD) - 1), st.integers(0, 255))
def test_record_with_one_other_byte_is_decoded_exactly_or_unreadable(at: int, byte: int) -> None:
    assert decodes_exactly(RECORD[:at] + bytes([byte]) + RECORD[at + 1 :])


def test_begun_seals_have_different_namespaces() -> None:
    seals = [Seal.begin(MARK) for _ in range(100)]
    assert len({seal.namespace for seal in seals}) == 100
    assert all(Seal.decode(seal.encode()) == seal for seal in seals)


def test_advanced_seal_keeps_its_namespace_and_differs_from_every_other() -> None:
    other = replace(MARK, id=uuid4())
    advanced = [SEAL.advanced(mark) for mark in (None, MARK, other) for _ in range(100)]
    assert {seal.namespace for seal in advanced} == {SEAL.namespace}
    assert len({SEAL.encode(), *(seal.encode() for seal in advanced)}) == 301


def test_advanced_seal_has_the_new_mark_or_keeps_its_own() -> None:
    other = replace(MARK, id=uuid4())
    assert SEAL.advanced(other).mark == other
    assert SEAL.advanced(None).mark == MARK


# --- The namespace of a record


@pytest.mark.parametrize(
    ("record", "namespace"),
    [
        (RECORD, "0123456789abcdef"),
        (RECORD + b" of a later form", "0123456789abcdef"),
        (b"2" + RECORD[1:], ""),
        (RECORD[:18], ""),
        (b"", ""),
        (b"\xff" * 80, ""),
    ],
)
def test_namespace_is_read_from_the_start_of_a_record(record: bytes, namespace: str) -> None:
    assert read_namespace(record) == namespace


def test_prefix_of_a_namespace_is_what_its_records_start_with() -> None:
    assert SEAL.encode().startswith(build_prefix(SEAL.namespace))
    assert (
        SEAL.advanced(replace(MARK, id=uuid4())).encode().startswith(build_prefix(SEAL.namespace))
    )
    assert not Seal.begin(MARK).encode().startswith(build_prefix(SEAL.namespace))
