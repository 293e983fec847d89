"""Three answers: who knows says yes or no, and who cannot look says neither."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest

from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest, KeyRing, Token, TokenKey, TokenText, token_text_of
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable
from sidegate.services.validator import Validator
from tests.contracts.values import a_digest, a_session, a_tombstone
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import Shelf

KEY = TokenKey(1, bytes(range(32)))
RING = KeyRing([KEY])
TOKEN = RING.mint(SessionType.WEB)
ENDLESS = 3600.0
AN_HOUR_AGO = NOON - timedelta(hours=1)


def a_validator(
    shelf: Shelf, clock: FakeClock | None = None, *, deadline: float = ENDLESS
) -> Validator:
    return Validator(shelf, ring=RING, clock=clock or FakeClock(), deadline=deadline)


async def test_a_living_session_is_allowed() -> None:
    session = a_session(digest=TOKEN.digest())

    assert await a_validator(Shelf(session)).validate(TOKEN.text) == Allow(session)


async def test_a_store_that_knows_nothing_of_it_denies() -> None:
    assert await a_validator(Shelf()).validate(TOKEN.text) == Deny(Reason.UNKNOWN)


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (a_tombstone(digest=TOKEN.digest()), Reason.REVOKED),
        (a_session(digest=TOKEN.digest(), expires_at=NOON), Reason.EXPIRED),
        (a_session(digest=TOKEN.digest(), at=NOON - timedelta(minutes=30)), Reason.IDLE),
    ],
)
async def test_an_ended_session_is_denied_for_what_ended_it(
    session: Session, reason: Reason
) -> None:
    assert await a_validator(Shelf(session)).validate(TOKEN.text) == Deny(reason)


async def test_a_rotated_out_token_opens_until_its_grace_is_over() -> None:
    clock = FakeClock()
    rotated = a_session(digest=TOKEN.digest()).rotated(a_digest(), timedelta(seconds=10), NOON)
    validator = a_validator(Shelf(*rotated.copies()), clock)

    within = await validator.validate(TOKEN.text)
    clock.advance(10)
    after = await validator.validate(TOKEN.text)

    assert isinstance(within, Allow)
    assert after == Deny(Reason.REUSED)


async def test_time_passes_between_two_answers() -> None:
    clock = FakeClock()
    validator = a_validator(Shelf(a_session(digest=TOKEN.digest(), idle_timeout=None)), clock)

    assert isinstance(await validator.validate(TOKEN.text), Allow)
    clock.advance(timedelta(hours=12))
    assert await validator.validate(TOKEN.text) == Deny(Reason.EXPIRED)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.MALFORMED),
        ("junk", Reason.MALFORMED),
        (TOKEN.text + "x", Reason.MALFORMED),
        ("\udcff", Reason.MALFORMED),
        (sha256(TOKEN.text.encode()).hexdigest(), Reason.MALFORMED),
        (
            KeyRing([TokenKey(1, bytes(32))]).mint(SessionType.WEB).text,
            Reason.FORGED,
        ),
    ],
)
async def test_what_is_no_token_of_ours_costs_no_store_a_question(
    text: str, reason: Reason
) -> None:
    shelf = Shelf()

    assert await a_validator(shelf).validate(text) == Deny(reason)
    assert await a_validator(shelf).find(text) == Deny(reason)
    assert shelf.asked == []


def recalled(session: Session | None, clock: FakeClock | None = None) -> Session | Deny | None:
    """Return what a validator recalls whose memory is this session, and who can ask nobody."""
    validator = Validator(
        Shelf(),
        ring=RING,
        clock=FakeClock(),
        deadline=ENDLESS,
        memory=lambda digest: session if digest == TOKEN.digest() else None,
    )
    spelling = token_text_of(TOKEN.text)
    assert spelling is not None
    return validator.check_memory(spelling, (clock or FakeClock()).now())


def test_what_memory_knows_is_recalled() -> None:
    session = a_session(digest=TOKEN.digest())

    assert recalled(session) is session
    assert recalled(None) is None


def test_an_end_that_is_final_is_recalled() -> None:
    grace_is_over = FakeClock(NOON + timedelta(minutes=1))
    rotated = a_session(digest=TOKEN.digest()).rotated(a_digest(), timedelta(seconds=10), NOON)

    assert recalled(a_tombstone(digest=TOKEN.digest())) == Deny(Reason.REVOKED)
    assert recalled(rotated.copies()[1], grace_is_over) == Deny(Reason.REUSED)


def test_what_another_instance_may_have_prolonged_is_not_recalled() -> None:
    idle, over = FakeClock(NOON + timedelta(minutes=30)), FakeClock(NOON + timedelta(hours=12))

    assert recalled(a_session(digest=TOKEN.digest()), idle) is None
    assert recalled(a_session(digest=TOKEN.digest(), idle_timeout=None), over) is None


def recalled_under(ring: KeyRing, session: Session, token: Token = TOKEN) -> Session | Deny | None:
    """Return what is recalled for a token where memory is this session, whatever is asked for."""
    validator = Validator(
        Shelf(), ring=ring, clock=FakeClock(), deadline=ENDLESS, memory=lambda _: session
    )
    spelling = token_text_of(token.text)
    assert spelling is not None
    return validator.check_memory(spelling, NOON)


def test_a_forged_token_recalls_nobody() -> None:
    forged = KeyRing([TokenKey(1, bytes(32))]).mint(SessionType.WEB)

    assert recalled_under(RING, a_session(digest=forged.digest()), forged) == Deny(Reason.FORGED)


@pytest.mark.parametrize("key_id", [1, 2])
def test_a_key_that_is_gone_takes_what_memory_knew_of_its_tokens_along(key_id: int) -> None:
    session = a_session(digest=TOKEN.digest())
    others = KeyRing([TokenKey(key_id, bytes(31) + b"x")])

    assert recalled_under(RING, session) is session
    assert recalled_under(others, session) == Deny(Reason.FORGED)


def test_the_tag_is_looked_at_once_for_each_copy() -> None:
    looked = []

    class Looking(KeyRing):
        def has_tagged(self, spelling: TokenText) -> bool:
            looked.append(spelling)
            return super().has_tagged(spelling)

    ring = Looking([KEY])
    session = a_session(digest=TOKEN.digest())
    for _ in range(3):
        assert recalled_under(ring, session) is session
    assert len(looked) == 1
    recalled_under(ring, replace(session))
    assert len(looked) == 2


def fetched(
    copy: Session | None, *, budget: float | None = None
) -> tuple[Session | Deny | None, float]:
    """Return what is made of this copy of TOKEN's session, and what patience it is fetched with."""
    told: list[Session | None] = []
    asked: list[tuple[Digest, float]] = []

    def fetch(digest: Digest, then: Callable[[Session | None], None], *, patience: float) -> bool:
        asked.append((digest, patience))
        then(copy)
        return True

    validator = Validator(Shelf(), ring=RING, clock=FakeClock(), deadline=ENDLESS, fetch=fetch)
    spelling = token_text_of(TOKEN.text)
    assert spelling is not None
    assert validator.prefetch(spelling, told.append, budget=budget)
    ((digest, patience),) = asked
    assert (told, digest) == ([copy], TOKEN.digest())
    return validator.judge_prefetched(copy, NOON), patience


def test_a_valid_session_that_is_fetched_is_told_as_it_is_and_verified() -> None:
    session = a_session(digest=TOKEN.digest())

    assert fetched(session)[0] is session
    assert session.verified_by is RING


def test_an_end_that_is_final_is_told_when_it_is_fetched() -> None:
    assert fetched(a_tombstone(digest=TOKEN.digest()))[0] == Deny(Reason.REVOKED)


def test_what_another_instance_may_have_prolonged_is_not_told_as_an_end() -> None:
    assert fetched(a_session(digest=TOKEN.digest(), at=AN_HOUR_AGO))[0] is None
    assert fetched(a_session(digest=TOKEN.digest(), expires_at=NOON))[0] is None


def test_nothing_that_is_fetched_is_no_answer() -> None:
    assert fetched(None)[0] is None


@pytest.mark.parametrize(
    ("budget", "patience"), [(None, ENDLESS), (10.0, 9.0), (10_000.0, ENDLESS), (-1.0, 0.0)]
)
def test_fetching_takes_no_longer_than_the_caller_waits(
    budget: float | None, patience: float
) -> None:
    assert fetched(None, budget=budget)[1] == patience


def test_where_there_is_nothing_to_fetch_from_nobody_is_told() -> None:
    spelling, told = token_text_of(TOKEN.text), list[object]()

    assert spelling is not None
    assert not a_validator(Shelf()).prefetch(spelling, told.append)
    assert told == []


async def test_whom_fetching_told_nothing_goes_on_to_the_other_stores() -> None:
    session, whole = a_session(digest=TOKEN.digest()), Shelf()
    validator = Validator(
        whole, ring=RING, clock=FakeClock(), deadline=ENDLESS, onward=Shelf(session)
    )

    assert await validator.validate(TOKEN.text, waited=1.0) == Allow(session)
    assert whole.asked == []
    assert await validator.validate(TOKEN.text) == Deny(Reason.UNKNOWN)


async def test_what_somebody_has_waited_already_is_taken_from_his_patience() -> None:
    shelf = Shelf(a_session(digest=TOKEN.digest()))
    shelf.open.clear()
    validator = a_validator(shelf, deadline=ENDLESS)

    late = await validator.validate(TOKEN.text, waited=ENDLESS)
    later = await validator.validate(TOKEN.text, budget=1000.0, waited=900.0)

    assert (late, later) == (Unavailable("deadline"), Unavailable("deadline"))


async def test_an_outage_is_no_no() -> None:
    shelf = Shelf(a_session(digest=TOKEN.digest()))
    shelf.down = True

    assert await a_validator(shelf).validate(TOKEN.text) == Unavailable("shelf")
    assert await a_validator(shelf).find(TOKEN.text) == Unavailable("shelf")


async def test_a_record_that_cannot_be_read_is_no_no() -> None:
    shelf = Shelf()
    shelf.unreadable.add(TOKEN.digest())

    assert await a_validator(shelf).validate(TOKEN.text) == Unavailable("unreadable")


async def test_an_outage_ends_with_the_outage() -> None:
    shelf = Shelf(a_session(digest=TOKEN.digest()))
    validator = a_validator(shelf)
    shelf.down = True
    await validator.validate(TOKEN.text)
    shelf.down = False

    assert isinstance(await validator.validate(TOKEN.text), Allow)


async def test_find_judges_nobody() -> None:
    tombstone = a_tombstone(digest=TOKEN.digest())

    assert await a_validator(Shelf(tombstone)).find(TOKEN.text) == tombstone
    assert await a_validator(Shelf()).find(TOKEN.text) == Deny(Reason.UNKNOWN)


@pytest.mark.parametrize("budget", [0.0, 0.02])
async def test_a_caller_who_waits_no_longer_is_answered_in_time(budget: float) -> None:
    shelf = Shelf(a_session(digest=TOKEN.digest()))
    shelf.open.clear()

    async with asyncio.timeout(1):
        verdict = await a_validator(shelf).validate(TOKEN.text, budget=budget)

    assert verdict == Unavailable("deadline")


@pytest.mark.parametrize("budget", [0.0, 0.001, 60.0, None])
async def test_a_store_that_need_not_wait_answers_within_any_budget(budget: float | None) -> None:
    session = a_session(digest=TOKEN.digest())

    assert await a_validator(Shelf(session)).validate(TOKEN.text, budget=budget) == Allow(session)


@pytest.mark.parametrize("budget", [None, 2.0, 60.0])
async def test_a_patient_caller_waits_as_long_as_the_house_does(budget: float | None) -> None:
    shelf = Shelf(a_session(digest=TOKEN.digest()))
    shelf.open.clear()
    validator = a_validator(shelf, deadline=1.0)

    asyncio.get_running_loop().call_later(0.03, shelf.open.set)

    assert isinstance(await validator.validate(TOKEN.text, budget=budget), Allow)


class Odd(Shelf):
    """Fails as nobody expects."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    async def find(self, digest: Digest) -> Session | None:  # noqa: ARG002  # the protocol's
        raise self.failure


@pytest.mark.parametrize("budget", [None, 0.5])
@pytest.mark.parametrize("failure", [RuntimeError("a bug"), TimeoutError("not the caller's")])
async def test_a_bug_is_neither_a_no_nor_an_outage(
    failure: Exception, budget: float | None
) -> None:
    with pytest.raises(type(failure), match=str(failure)):
        await a_validator(Odd(failure)).validate(TOKEN.text, budget=budget)
