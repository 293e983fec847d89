"""The record of a session: round trip, order of headers, and rejection of anything else."""

import json
import pickle
import struct
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.binding import Binding, Signal
from sidegate.core.digest import Digest
from sidegate.core.errors import UnreadableRecord
from sidegate.core.judge import judge
from sidegate.core.session import EPOCH, Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.stores.codec import HEADER_SIZE, decode, encode
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.support.clock import NOON
from tests.support.replace import replace

LAST: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

timestamps = st.datetimes(
    EPOCH.replace(tzinfo=None), LAST.replace(year=9000, tzinfo=None), timezones=st.just(UTC)
)
digests = st.binary(min_size=32, max_size=32).map(Digest)
versions = st.integers(1, 2**63 - 1)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Draw any session that transitions may lead to."""
    rotated = draw(st.booleans())
    return Session(
        id=SessionId(str(draw(st.uuids()))),
        digest=draw(digests),
        user_id=draw(st.text(max_size=100)),
        type=draw(st.sampled_from(SessionType)),
        scopes=tuple(draw(st.lists(st.text(max_size=20), max_size=5))),
        created_at=draw(timestamps),
        authenticated_at=draw(timestamps),
        last_seen_at=draw(timestamps),
        expires_at=draw(timestamps),
        idle_timeout=draw(st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(366))),
        revoked_at=draw(st.none() | timestamps),
        previous_digest=draw(digests) if rotated else None,
        previous_until=draw(timestamps) if rotated else EPOCH,
        version=draw(versions),
        binding=Binding.pack(
            draw(st.lists(st.tuples(st.text(max_size=16), st.binary(max_size=8))))
        ),
    )


def decode_elements(session: Session) -> list[Any]:
    """Return the elements of a record's body."""
    body: list[Any] = msgspec.msgpack.decode(encode(session)[HEADER_SIZE:])
    return body


def build_record(elements: Sequence[Any], *, like: Session) -> bytes:
    """Return a record with the header of `like` and a body of `elements`."""
    return encode(like)[:HEADER_SIZE] + msgspec.msgpack.encode(list(elements))


# --- Round trip


@given(sessions())
def test_any_session_round_trips(session: Session) -> None:
    assert decode(encode(session)) == session


@given(sessions())
def test_each_copy_round_trips_with_its_own_digest(session: Session) -> None:
    for copy in session.copies():
        assert decode(encode(copy)).digest == copy.digest


def test_timestamps_round_trip_in_utc_with_microseconds() -> None:
    seen = datetime(2026, 3, 4, 12, 0, 0, 999_999, tzinfo=UTC)
    session = decode(encode(build_session(last_seen_at=seen, expires_at=LAST)))
    assert (session.last_seen_at, session.expires_at) == (seen, LAST)
    assert session.last_seen_at.tzinfo is UTC


def test_typical_record_is_under_500_bytes() -> None:
    scopes = tuple(f"https://api.example.org/scope/{number}" for number in range(5))
    binding = Binding.pack((signal.value, bytes(8)) for signal in Signal)
    session = build_rotated_session(
        user_id="auth0|" + "5f7c8ec7c33c6c004bbafe82", scopes=scopes, binding=binding
    )
    assert len(encode(session.revoked(NOON))) < 500


# --- The header


@given(sessions(), sessions())
def test_headers_compare_like_freshness(one: Session, other: Session) -> None:
    headers = [encode(session)[:HEADER_SIZE] for session in (one, other)]
    assert (headers[0] > headers[1]) == (one.freshness > other.freshness)
    assert (headers[0] == headers[1]) == (one.freshness == other.freshness)


EXTREMES: Final = [
    build_session(revoked_at=revoked_at, version=version, last_seen_at=seen, idle_timeout=None)
    for revoked_at in (None, NOON)
    for version in (1, 2, 9, 10, 2**31, 2**63 - 1)
    for seen in (EPOCH, EPOCH + timedelta(microseconds=1), NOON, LAST)
]


def test_headers_of_extreme_values_are_ordered() -> None:
    headers = [encode(session)[:HEADER_SIZE] for session in EXTREMES]
    assert headers == sorted(headers)
    assert len(set(headers)) == len(headers)


@pytest.mark.parametrize("session", EXTREMES[:: len(EXTREMES) - 1])
def test_extreme_values_round_trip(session: Session) -> None:
    assert decode(encode(session)) == session


def test_header_size_is_constant_for_extreme_values() -> None:
    for session in EXTREMES:
        assert encode(session)[:HEADER_SIZE].isdigit()
        assert not encode(session)[HEADER_SIZE:].isdigit()
        assert encode(session)[HEADER_SIZE:].startswith(b"\xdc\x00\x10")  # array of 16


# --- Newer and older writers


@pytest.mark.parametrize("more", [[None], ["tenant", {"name": "shop"}], [[1, [2, [3]]], b"x"]])
def test_elements_of_a_newer_writer_are_skipped(more: list[Any]) -> None:
    session = build_rotated_session()
    assert decode(build_record([*decode_elements(session), *more], like=session)) == session


def test_record_of_a_writer_without_bindings_has_no_binding() -> None:
    session = build_session()
    assert decode(build_record(decode_elements(session)[:14], like=session)) == session


def test_elements_that_an_older_reader_knows_are_unchanged() -> None:
    session = build_session(
        binding=Binding.pack([("ip", bytes(8)), ("signal of a newer version", bytes(8))])
    )
    assert (
        decode_elements(session)[:14] == decode_elements(replace(session, binding=Binding()))[:14]
    )
    assert decode(encode(session)) == session


@pytest.mark.parametrize("missing", range(3, 16))
def test_record_without_required_elements_is_unreadable(missing: int) -> None:
    session = build_session()
    with pytest.raises(UnreadableRecord):
        decode(build_record(decode_elements(session)[:-missing], like=session))


# --- Invalid records


def build_nested_record(session: Session, depth: int) -> bytes:
    """Return a record with an additional element: `depth` nested arrays."""
    elements = decode_elements(session)
    start = b"\xdc" + struct.pack(">H", len(elements) + 1)
    body = start + b"".join(map(msgspec.msgpack.encode, elements))
    return encode(session)[:HEADER_SIZE] + body + b"\x91" * depth + b"\xc0"


SESSION: Final = build_session()
INVALID: Final = {
    "empty": b"",
    "header only": encode(SESSION)[:HEADER_SIZE],
    "body only": encode(SESSION)[HEADER_SIZE:],
    "pickle": pickle.dumps({"user_id": "ada"}),
    "json": json.dumps({"user_id": "ada"}).encode(),
    "header and json": encode(SESSION)[:HEADER_SIZE] + b'["ada"]',
    "zeroes": bytes(200),
    "digits": b"1" * 200,
    "ones": b"\xff" * 200,
    "two records": encode(SESSION) * 2,
    "trailing byte": encode(SESSION) + b"\x00",
    "header of another version": encode(SESSION.touched(NOON + timedelta(seconds=1)))[:HEADER_SIZE]
    + encode(SESSION)[HEADER_SIZE:],
    "header of a tombstone": encode(SESSION.revoked(NOON))[:HEADER_SIZE]
    + encode(SESSION)[HEADER_SIZE:],
    "version of no session": encode(replace(SESSION, version=0)),
    "version beyond 63 bits": encode(replace(SESSION, version=2**63)),
    "array of 2**32-1 elements": encode(SESSION)[:HEADER_SIZE] + b"\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_record_is_unreadable(name: str) -> None:
    with pytest.raises(UnreadableRecord):
        decode(INVALID[name])


def test_deeply_nested_additional_element_is_unreadable_or_ignored() -> None:
    """How deep msgspec reads depends on the C stack that Python grants."""
    with suppress(UnreadableRecord):
        assert decode(build_nested_record(SESSION, 100_000)) == SESSION


def test_truncated_record_is_unreadable() -> None:
    record = encode(SESSION)
    for length in range(len(record)):
        with pytest.raises(UnreadableRecord):
            decode(record[:length])


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, b"short"),
        (3, "cookie"),
        (5, "2026-03-04T12:00:00"),  # no time zone
        (9, 2**63),  # idle timeout of 292,000 years
        (9, 2**64 - 1),
        (10, "2026-03-04T12:00:00"),
        (11, b"short"),
        (12, "2026-03-04T12:00:00"),
        (13, "1"),
    ],
)
def test_invalid_element_is_unreadable(index: int, value: Any) -> None:
    session = build_tombstone(previous_digest=build_digest(), previous_until=NOON)
    elements = decode_elements(session)
    elements[index] = value
    with pytest.raises(UnreadableRecord):
        decode(build_record(elements, like=session))


@given(st.binary(max_size=300))
def test_random_bytes_are_unreadable(noise: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(noise)


@pytest.mark.parametrize(
    "session",
    [
        SESSION,
        build_tombstone(scopes=("x" * 40, "ÿ")),
        build_rotated_session(idle_timeout=timedelta(days=30), expires_at=LAST),
    ],
    ids=["web", "tombstone", "rotated"],
)
def test_flipped_bits_outside_the_digest_never_change_the_digest(
    session: Session,
) -> None:
    record = encode(session)
    start = record.index(session.digest)
    digest_range = range(start, start + 32)
    for position in range(len(record)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            broken = bytearray(record)
            broken[position] ^= flip
            with suppress(UnreadableRecord):
                read = decode(bytes(broken))
                judge(read, NOON)  # a readable session can be judged
                assert (read.digest == session.digest) == (position not in digest_range)
