"""The record of a session: it comes back whole, its head sorts, and nothing else is believed."""

import json
import pickle
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.binding import Binding, Signal
from sidegate.core.errors import UnreadableRecord
from sidegate.core.judge import judge
from sidegate.core.session import NEVER, Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest
from sidegate.stores.codec import HEAD, decode, encode
from tests.contracts.values import a_digest, a_rotated_session, a_session, a_tombstone
from tests.support.clock import NOON

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

moments = st.datetimes(
    EPOCH.replace(tzinfo=None), LAST.replace(year=9000, tzinfo=None), timezones=st.just(UTC)
)
digests = st.binary(min_size=32, max_size=32).map(Digest)
versions = st.integers(1, 2**63 - 1)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Draw any session that a life may lead to."""
    rotated = draw(st.booleans())
    return Session(
        id=SessionId(str(draw(st.uuids()))),
        digest=draw(digests),
        user_id=draw(st.text(max_size=100)),
        type=draw(st.sampled_from(SessionType)),
        scopes=tuple(draw(st.lists(st.text(max_size=20), max_size=5))),
        created_at=draw(moments),
        authenticated_at=draw(moments),
        last_seen_at=draw(moments),
        expires_at=draw(moments),
        idle_timeout=draw(st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(366))),
        revoked_at=draw(st.none() | moments),
        previous_digest=draw(digests) if rotated else None,
        previous_until=draw(moments) if rotated else NEVER,
        version=draw(versions),
        binding=Binding.of(draw(st.lists(st.tuples(st.text(max_size=16), st.binary(max_size=8))))),
    )


def fields(session: Session) -> list[Any]:
    """Return the elements of a record's body."""
    body: list[Any] = msgspec.msgpack.decode(encode(session)[HEAD:])
    return body


def a_record(elements: Sequence[Any], *, like: Session) -> bytes:
    """Return a record with the head of a session and a body made of `elements`."""
    return encode(like)[:HEAD] + msgspec.msgpack.encode(list(elements))


# --- There and back


@given(sessions())
def test_any_session_comes_back_whole(session: Session) -> None:
    assert decode(encode(session)) == session


@given(sessions())
def test_each_copy_of_a_session_comes_back_for_its_own_digest(session: Session) -> None:
    for copy in session.copies():
        assert decode(encode(copy)).digest == copy.digest


def test_times_come_back_in_utc_to_the_microsecond() -> None:
    seen = datetime(2026, 3, 4, 12, 0, 0, 999_999, tzinfo=UTC)
    session = decode(encode(a_session(last_seen_at=seen, expires_at=LAST)))
    assert (session.last_seen_at, session.expires_at) == (seen, LAST)
    assert session.last_seen_at.tzinfo is UTC


def test_a_typical_record_is_small() -> None:
    scopes = tuple(f"https://api.example.org/scope/{number}" for number in range(5))
    binding = Binding.of((signal.value, bytes(8)) for signal in Signal)
    session = a_rotated_session(
        user_id="auth0|" + "5f7c8ec7c33c6c004bbafe82", scopes=scopes, binding=binding
    )
    assert len(encode(session.revoked(NOON))) < 500


# --- The head


@given(sessions(), sessions())
def test_heads_sort_as_sessions_do_by_freshness(one: Session, other: Session) -> None:
    heads = [encode(session)[:HEAD] for session in (one, other)]
    assert (heads[0] > heads[1]) == (one.freshness > other.freshness)
    assert (heads[0] == heads[1]) == (one.freshness == other.freshness)


EXTREMES: Final = [
    a_session(revoked_at=revoked_at, version=version, last_seen_at=seen, idle_timeout=None)
    for revoked_at in (None, NOON)
    for version in (1, 2, 9, 10, 2**31, 2**63 - 1)
    for seen in (EPOCH, EPOCH + timedelta(microseconds=1), NOON, LAST)
]


def test_heads_sort_to_the_ends_of_time_and_of_counting() -> None:
    heads = [encode(session)[:HEAD] for session in EXTREMES]
    assert heads == sorted(heads)
    assert len(set(heads)) == len(heads)


@pytest.mark.parametrize("session", EXTREMES[:: len(EXTREMES) - 1])
def test_the_ends_of_time_and_of_counting_come_back(session: Session) -> None:
    assert decode(encode(session)) == session


def test_a_head_has_its_length_at_the_end_of_time() -> None:
    for session in EXTREMES:
        assert encode(session)[:HEAD].isdigit()
        assert not encode(session)[HEAD:].isdigit()
        assert encode(session)[HEAD:].startswith(b"\x9f")  # a body: fifteen elements


# --- Newer and older writers


@pytest.mark.parametrize("more", [[None], ["tenant", {"name": "shop"}], [[1, [2, [3]]], b"x"]])
def test_what_a_newer_writer_adds_is_skipped(more: list[Any]) -> None:
    session = a_rotated_session()
    assert decode(a_record([*fields(session), *more], like=session)) == session


def test_a_record_from_before_there_were_bindings_is_bound_to_nothing() -> None:
    session = a_session()
    assert decode(a_record(fields(session)[:14], like=session)) == session


def test_an_older_reader_needs_no_more_than_it_knew() -> None:
    session = a_session(binding=Binding.of([("ip", bytes(8)), ("a signal of tomorrow", bytes(8))]))
    assert fields(session)[:14] == fields(replace(session, binding=Binding()))[:14]
    assert decode(encode(session)) == session


@pytest.mark.parametrize("missing", range(2, 15))
def test_a_record_that_lacks_elements_is_unreadable(missing: int) -> None:
    session = a_session()
    with pytest.raises(UnreadableRecord):
        decode(a_record(fields(session)[:-missing], like=session))


# --- Whatever else lies there


def nested(session: Session, depth: int) -> bytes:
    """Return a record whose additional element is an array in an array in an array ..."""
    elements = fields(session)
    start = b"\xdc" + struct.pack(">H", len(elements) + 1)
    body = start + b"".join(map(msgspec.msgpack.encode, elements))
    return encode(session)[:HEAD] + body + b"\x91" * depth + b"\xc0"


SESSION: Final = a_session()
RUBBISH: Final = {
    "nothing": b"",
    "a head alone": encode(SESSION)[:HEAD],
    "a body alone": encode(SESSION)[HEAD:],
    "pickle": pickle.dumps({"user_id": "ada"}),
    "json": json.dumps({"user_id": "ada"}).encode(),
    "a head and json": encode(SESSION)[:HEAD] + b'["ada"]',
    "zeroes": bytes(200),
    "digits": b"1" * 200,
    "ones": b"\xff" * 200,
    "two records": encode(SESSION) * 2,
    "one byte more": encode(SESSION) + b"\x00",
    "a wrong head": encode(SESSION.touched(NOON + timedelta(seconds=1)))[:HEAD]
    + encode(SESSION)[HEAD:],
    "a tombstone's head": encode(SESSION.revoked(NOON))[:HEAD] + encode(SESSION)[HEAD:],
    "a deep nest": nested(SESSION, 100_000),
    "an array of four thousand millions": encode(SESSION)[:HEAD] + b"\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", RUBBISH)
def test_what_is_no_record_is_unreadable(name: str) -> None:
    with pytest.raises(UnreadableRecord):
        decode(RUBBISH[name])


def test_a_truncated_record_is_unreadable() -> None:
    record = encode(SESSION)
    for length in range(len(record)):
        with pytest.raises(UnreadableRecord):
            decode(record[:length])


@pytest.mark.parametrize(
    ("place", "nonsense"),
    [
        (0, b"short"),
        (3, "cookie"),
        (5, "2026-03-04T12:00:00"),  # a time without a zone
        (9, 2**63),  # microseconds of silence: 292,000 years
        (9, 2**64 - 1),
        (10, "2026-03-04T12:00:00"),
        (11, b"short"),
        (12, "2026-03-04T12:00:00"),
        (13, "1"),
    ],
)
def test_an_element_that_cannot_be_is_unreadable(place: int, nonsense: Any) -> None:
    session = a_tombstone(previous_digest=a_digest(), previous_until=NOON)
    elements = fields(session)
    elements[place] = nonsense
    with pytest.raises(UnreadableRecord):
        decode(a_record(elements, like=session))


@given(st.binary(max_size=300))
def test_noise_is_unreadable(noise: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(noise)


@pytest.mark.parametrize(
    "session",
    [
        SESSION,
        a_tombstone(scopes=("x" * 40, "ÿ")),
        a_rotated_session(idle_timeout=timedelta(days=30), expires_at=LAST),
    ],
    ids=["web", "tombstone", "rotated"],
)
def test_a_flipped_byte_makes_no_record_answer_for_somebody_else_by_accident(
    session: Session,
) -> None:
    record = encode(session)
    start = record.index(session.digest)
    its_digest = range(start, start + 32)
    for place in range(len(record)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            broken = bytearray(record)
            broken[place] ^= flip
            with suppress(UnreadableRecord):
                read = decode(bytes(broken))
                judge(read, NOON)  # whatever is readable can be judged
                assert (read.digest == session.digest) == (place not in its_digest)
