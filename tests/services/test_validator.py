"""The validator: verdicts from memory, prefetched copies and the stores."""

import asyncio
from datetime import timedelta
from hashlib import sha256
from math import inf

import pytest

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey, TokenText, parse_token_text
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.validator import Candidates, Validator
from tests.contracts.values import build_digest, build_session, build_tombstone
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend, FakeLookup, know_idleness
from tests.support.replace import replace

KEY = TokenKey(1, bytes(range(32)))
RING = KeyRing([KEY])
RULES = RulesInForce(Rules(ring=RING))
TOKEN = RING.mint(SessionType.WEB)
LONG_DEADLINE = 3600.0
AN_HOUR_AGO = NOON - timedelta(hours=1)


def build_validator(
    source: FakeBackend | FakeLookup,
    clock: FakeClock | None = None,
    *,
    deadline: float = LONG_DEADLINE,
    rules: RulesInForce = RULES,
) -> Validator:
    return Validator(
        source if isinstance(source, FakeLookup) else FakeLookup(source),
        rules=rules,
        clock=clock or FakeClock(),
        deadline=deadline,
        require_idle_known=know_idleness,
    )


async def test_active_session_is_allowed() -> None:
    session = build_session(digest=TOKEN.digest())

    assert await build_validator(FakeBackend(session)).validate(TOKEN.text) == Allow(session)


async def test_unknown_token_is_denied() -> None:
    assert await build_validator(FakeBackend()).validate(TOKEN.text) == Deny(Reason.UNKNOWN)


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (build_tombstone(digest=TOKEN.digest()), Reason.REVOKED),
        (build_session(digest=TOKEN.digest(), expires_at=NOON), Reason.EXPIRED),
        (build_session(digest=TOKEN.digest(), at=NOON - timedelta(minutes=30)), Reason.IDLE),
    ],
)
async def test_ended_session_is_denied_with_its_reason(session: Session, reason: Reason) -> None:
    assert await build_validator(FakeBackend(session)).validate(TOKEN.text) == Deny(reason)


async def test_rotated_out_token_is_allowed_until_its_grace_ends() -> None:
    clock = FakeClock()
    rotated = build_session(digest=TOKEN.digest()).rotated(
        build_digest(), timedelta(seconds=10), at=NOON
    )
    validator = build_validator(FakeBackend(*rotated.copies()), clock)

    during_grace = await validator.validate(TOKEN.text)
    clock.advance(10)
    after_grace = await validator.validate(TOKEN.text)

    assert isinstance(during_grace, Allow)
    assert after_grace == Deny(Reason.REUSED)


async def test_verdict_changes_when_the_session_expires() -> None:
    clock = FakeClock()
    validator = build_validator(
        FakeBackend(build_session(digest=TOKEN.digest(), idle_timeout=None)), clock
    )

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
    ids=["empty", "junk", "too_long", "surrogate", "a_digest", "other_key"],
)
async def test_malformed_or_forged_token_causes_no_lookup(text: str, reason: Reason) -> None:
    backend = FakeBackend()

    assert await build_validator(backend).validate(text) == Deny(reason)
    assert await build_validator(backend).find(text) == Deny(reason)
    assert backend.lookups == []


Found = Session | Deny | Unavailable | None


def unwrap(found: MemoryEntry | Deny | Unavailable | Digest | None) -> Found:
    """Return the session of an entry, or None for the digest of an undecided token."""
    if isinstance(found, MemoryEntry):
        return found.session
    return None if isinstance(found, bytes) else found


def check_memory(session: Session | None, clock: FakeClock | None = None) -> Found:
    """Check TOKEN against a memory that holds this session; no other store has any."""
    validator = build_validator(
        FakeLookup(
            FakeBackend(), memory=lambda digest: session if digest == TOKEN.digest() else None
        ),
    )
    token_text = parse_token_text(TOKEN.text)
    assert token_text is not None
    return unwrap(validator.check_memory(token_text, (clock or FakeClock()).now()))


def test_valid_copy_in_memory_is_returned() -> None:
    session = build_session(digest=TOKEN.digest())

    assert check_memory(session) is session
    assert check_memory(None) is None


def test_digest_of_an_undecided_token_is_returned() -> None:
    validator, token_text = build_validator(FakeBackend()), parse_token_text(TOKEN.text)

    assert token_text is not None
    assert validator.check_memory(token_text, NOON) == TOKEN.digest()


def test_final_end_in_memory_is_denied() -> None:
    after_grace = FakeClock(NOON + timedelta(minutes=1))
    rotated = build_session(digest=TOKEN.digest()).rotated(
        build_digest(), timedelta(seconds=10), at=NOON
    )

    assert check_memory(build_tombstone(digest=TOKEN.digest())) == Deny(Reason.REVOKED)
    assert check_memory(rotated.copies()[1], after_grace) == Deny(Reason.REUSED)


def test_copy_in_memory_that_may_be_stale_is_not_decided() -> None:
    idle, expired = FakeClock(NOON + timedelta(minutes=30)), FakeClock(NOON + timedelta(hours=12))

    assert check_memory(build_session(digest=TOKEN.digest()), idle) is None
    assert check_memory(build_session(digest=TOKEN.digest(), idle_timeout=None), expired) is None


def check_memory_under(
    ring: KeyRing, session: Session, *, token: Token = TOKEN, lookup: FakeLookup | None = None
) -> Found:
    """Check a token under `ring`, with `session` in memory for any digest."""
    lookup = lookup or FakeLookup(FakeBackend(), memory=lambda _: session)
    rules = RulesInForce(Rules(ring=ring))
    validator = build_validator(lookup, rules=rules)
    token_text = parse_token_text(token.text)
    assert token_text is not None
    return unwrap(validator.check_memory(token_text, NOON))


def test_forged_token_is_denied_despite_a_copy_in_memory() -> None:
    forged = KeyRing([TokenKey(1, bytes(32))]).mint(SessionType.WEB)

    assert check_memory_under(RING, build_session(digest=forged.digest()), token=forged) == Deny(
        Reason.FORGED
    )


@pytest.mark.parametrize("key_id", [1, 2])
def test_token_of_a_removed_key_is_forged_despite_a_copy_in_memory(key_id: int) -> None:
    session = build_session(digest=TOKEN.digest())
    others = KeyRing([TokenKey(key_id, bytes(31) + b"x")])

    assert check_memory_under(RING, session) is session
    assert check_memory_under(others, session) == Deny(Reason.FORGED)


def test_tag_is_verified_once_for_each_copy() -> None:
    verified = []

    class CountingKeyRing(KeyRing):
        def has_valid_tag(self, token_text: TokenText) -> bool:
            verified.append(token_text)
            return super().has_valid_tag(token_text)

    ring = CountingKeyRing([KEY])
    copies = [build_session(digest=TOKEN.digest())]
    lookup = FakeLookup(FakeBackend(), memory=lambda _: copies[-1])
    for _ in range(3):
        assert check_memory_under(ring, copies[0], lookup=lookup) is copies[0]
    assert len(verified) == 1
    copies.append(replace(copies[0]))
    check_memory_under(ring, copies[1], lookup=lookup)
    assert len(verified) == 2


def prefetch_entry(entry: Prefetched, *, budget: float | None = None) -> tuple[Found, float]:
    """Prefetch TOKEN's session as `entry`. Return the result and the timeout used."""
    received: list[Prefetched] = []
    calls: list[tuple[Digest, float]] = []

    def prefetch(digest: Digest, on_done: OnPrefetched, timeout: float) -> bool:
        calls.append((digest, timeout))
        on_done(entry)
        return True

    validator = build_validator(
        FakeLookup(FakeBackend(), prefetch=prefetch),
    )
    assert validator.prefetch(TOKEN.digest(), received.append, budget=budget)
    ((digest, timeout),) = calls
    assert (received, digest) == ([entry], TOKEN.digest())
    return unwrap(validator.judge_prefetched(entry, NOON)), timeout


def prefetch_copy(session: Session) -> Found:
    return prefetch_entry(MemoryEntry(session, inf))[0]


def test_valid_prefetched_copy_is_returned() -> None:
    entry = MemoryEntry(build_session(digest=TOKEN.digest()), inf)

    assert prefetch_entry(entry)[0] is entry.session


def test_token_whose_key_is_removed_during_the_prefetch_is_forged_from_then_on() -> None:
    rules, other = RulesInForce(Rules(ring=RING)), KeyRing([TokenKey(2, bytes(32))])
    session, token_text = build_session(digest=TOKEN.digest()), parse_token_text(TOKEN.text)
    lookup = FakeLookup(FakeBackend(), memory=lambda _: session)
    validator = build_validator(lookup, rules=rules)
    assert token_text is not None

    rules.current = Rules(ring=other)
    validator.judge_prefetched(lookup.peek(session.digest), NOON)

    assert validator.check_memory(token_text, NOON) == Deny(Reason.FORGED)


def test_prefetched_final_end_is_denied() -> None:
    assert prefetch_copy(build_tombstone(digest=TOKEN.digest())) == Deny(Reason.REVOKED)


def test_prefetched_copy_that_may_be_stale_is_not_decided() -> None:
    assert prefetch_copy(build_session(digest=TOKEN.digest(), at=AN_HOUR_AGO)) is None
    assert prefetch_copy(build_session(digest=TOKEN.digest(), expires_at=NOON)) is None


def test_failed_prefetch_from_the_database_is_an_outage() -> None:
    assert prefetch_entry(StoreUnavailable("postgres", "down"))[0] == Unavailable("postgres")
    assert prefetch_entry(UnreadableRecord("damaged"))[0] == Unavailable("unreadable")


def test_prefetch_without_a_copy_decides_nothing() -> None:
    assert prefetch_entry(None)[0] is None


@pytest.mark.parametrize(
    ("budget", "timeout"),
    [(None, LONG_DEADLINE), (10.0, 9.0), (10_000.0, LONG_DEADLINE), (-1.0, 0.0)],
)
def test_prefetch_timeout_is_within_budget_and_deadline(
    budget: float | None, timeout: float
) -> None:
    assert prefetch_entry(None, budget=budget)[1] == timeout


def test_prefetch_without_a_remote_cache_returns_false() -> None:
    received = list[object]()

    assert not build_validator(FakeBackend()).prefetch(TOKEN.digest(), received.append)
    assert received == []


async def test_after_a_prefetch_redis_is_skipped() -> None:
    session, finder = build_session(digest=TOKEN.digest()), FakeBackend()
    validator = build_validator(
        FakeLookup(finder, after_prefetch=FakeBackend(session)),
    )

    assert await validator.validate(TOKEN.text, elapsed=1.0) == Allow(session)
    assert finder.lookups == []
    assert await validator.validate(TOKEN.text) == Deny(Reason.UNKNOWN)


async def test_elapsed_time_is_subtracted_from_the_budget() -> None:
    backend = FakeBackend(build_session(digest=TOKEN.digest()))
    backend.unblocked.clear()
    validator = build_validator(backend, deadline=LONG_DEADLINE)

    late = await validator.validate(TOKEN.text, elapsed=LONG_DEADLINE)
    still_late = await validator.validate(TOKEN.text, budget=1000.0, elapsed=900.0)

    assert (late, still_late) == (Unavailable("deadline"), Unavailable("deadline"))


async def test_outage_is_unavailable_not_a_denial() -> None:
    backend = FakeBackend(build_session(digest=TOKEN.digest()))
    backend.down = True

    assert await build_validator(backend).validate(TOKEN.text) == Unavailable("backend")
    assert await build_validator(backend).find(TOKEN.text) == Unavailable("backend")


async def test_unreadable_record_is_unavailable_not_a_denial() -> None:
    backend = FakeBackend()
    backend.unreadable.add(TOKEN.digest())

    assert await build_validator(backend).validate(TOKEN.text) == Unavailable("unreadable")


async def test_after_an_outage_the_session_is_allowed_again() -> None:
    backend = FakeBackend(build_session(digest=TOKEN.digest()))
    validator = build_validator(backend)
    backend.down = True
    await validator.validate(TOKEN.text)
    backend.down = False

    assert isinstance(await validator.validate(TOKEN.text), Allow)


async def test_find_returns_ended_sessions() -> None:
    tombstone = build_tombstone(digest=TOKEN.digest())

    assert await build_validator(FakeBackend(tombstone)).find(TOKEN.text) == tombstone
    assert await build_validator(FakeBackend()).find(TOKEN.text) == Deny(Reason.UNKNOWN)


@pytest.mark.parametrize("budget", [0.0, 0.02])
async def test_exceeded_budget_is_unavailable(budget: float) -> None:
    backend = FakeBackend(build_session(digest=TOKEN.digest()))
    backend.unblocked.clear()

    async with asyncio.timeout(1):
        verdict = await build_validator(backend).validate(TOKEN.text, budget=budget)

    assert verdict == Unavailable("deadline")


@pytest.mark.parametrize("budget", [0.0, 0.001, 60.0, None])
async def test_immediate_lookup_succeeds_within_any_budget(budget: float | None) -> None:
    session = build_session(digest=TOKEN.digest())

    assert await build_validator(FakeBackend(session)).validate(TOKEN.text, budget=budget) == Allow(
        session
    )


@pytest.mark.parametrize("budget", [None, 2.0, 60.0])
async def test_slow_lookup_within_the_deadline_is_allowed(budget: float | None) -> None:
    backend = FakeBackend(build_session(digest=TOKEN.digest()))
    backend.unblocked.clear()
    validator = build_validator(backend, deadline=1.0)

    asyncio.get_running_loop().call_later(0.03, backend.unblocked.set)

    assert isinstance(await validator.validate(TOKEN.text, budget=budget), Allow)


class BrokenBackend(FakeBackend):
    """A backend with a bug."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    async def find(self, digest: Digest) -> Session | None:  # noqa: ARG002  # the protocol's
        raise self.failure


@pytest.mark.parametrize("budget", [None, 0.5])
@pytest.mark.parametrize("failure", [RuntimeError("a bug"), TimeoutError("a bug, too")])
async def test_bug_in_a_store_is_raised(failure: Exception, budget: float | None) -> None:
    with pytest.raises(type(failure), match=str(failure)):
        await build_validator(BrokenBackend(failure)).validate(TOKEN.text, budget=budget)


# --- Several tokens of one request

OTHER = RING.mint(SessionType.WEB)
THIRD = RING.mint(SessionType.WEB)
FOREIGN = KeyRing([TokenKey(1, bytes(32))]).mint(SessionType.WEB)
ACTIVE = build_session(digest=TOKEN.digest())
OTHER_ACTIVE = build_session(digest=OTHER.digest())
ENDED = build_tombstone(digest=OTHER.digest())


def as_texts(*tokens: Token) -> tuple[TokenText, ...]:
    return tuple(TokenText(token.text.encode("ascii")) for token in tokens)


async def validate_several(
    backend: FakeBackend, *cookies: Token, others: tuple[Token, ...] = ()
) -> Verdict:
    candidates = Candidates(as_texts(*others), as_texts(*cookies))
    return await build_validator(backend).validate_presented(candidates)


@pytest.mark.parametrize("cookies", [(TOKEN, OTHER), (OTHER, TOKEN)], ids=["first", "last"])
async def test_cookie_that_opens_a_session_counts(cookies: tuple[Token, Token]) -> None:
    for other in ((), (ENDED,)):
        verdict = await validate_several(FakeBackend(ACTIVE, *other), *cookies)
        assert verdict == Allow(ACTIVE)


async def test_cookies_of_two_sessions_are_ambiguous() -> None:
    verdict = await validate_several(FakeBackend(ACTIVE, OTHER_ACTIVE), TOKEN, OTHER)
    assert verdict == Deny(Reason.AMBIGUOUS)


async def test_old_and_new_cookie_of_one_session_are_not_ambiguous() -> None:
    rotated = ACTIVE.rotated(OTHER.digest(), timedelta(seconds=10), at=NOON)
    for cookies in ((TOKEN, OTHER), (OTHER, TOKEN)):
        verdict = await validate_several(FakeBackend(*rotated.copies()), *cookies)
        assert verdict == Allow(rotated)  # the use of the new one has to be recorded


async def test_three_cookies_are_ambiguous_without_a_lookup() -> None:
    backend = FakeBackend(ACTIVE)
    assert await validate_several(backend, TOKEN, OTHER, THIRD) == Deny(Reason.AMBIGUOUS)
    assert backend.lookups == []


async def test_cookies_that_open_nothing_are_denied_with_the_first_reason() -> None:
    assert await validate_several(FakeBackend(ENDED), OTHER, TOKEN) == Deny(Reason.REVOKED)


async def test_another_token_beside_the_cookie_is_ambiguous_whatever_they_open() -> None:
    backend = FakeBackend(ACTIVE)
    verdict = await validate_several(backend, TOKEN, others=(OTHER,))
    assert verdict == Deny(Reason.AMBIGUOUS)
    assert backend.lookups == []


@pytest.mark.parametrize("embedded", [OTHER, TOKEN])
async def test_token_as_a_part_of_a_value_is_ambiguous_without_a_lookup(embedded: Token) -> None:
    backend = FakeBackend(ACTIVE)
    candidates = Candidates((), as_texts(TOKEN), as_texts(FOREIGN, embedded))
    verdict = await build_validator(backend).validate_presented(candidates)
    assert verdict == Deny(Reason.AMBIGUOUS)
    assert backend.lookups == []


async def test_part_of_a_value_without_a_valid_tag_does_not_count() -> None:
    candidates = Candidates((), as_texts(TOKEN), as_texts(FOREIGN))
    verdict = await build_validator(FakeBackend(ACTIVE)).validate_presented(candidates)
    assert verdict == Allow(ACTIVE)


async def test_tokens_of_other_deployments_do_not_count() -> None:
    backend = FakeBackend(ACTIVE)
    assert await validate_several(backend, FOREIGN, TOKEN) == Allow(ACTIVE)
    assert await validate_several(backend, TOKEN, others=(FOREIGN,)) == Allow(ACTIVE)
    assert await validate_several(backend, FOREIGN, others=(TOKEN,)) == Allow(ACTIVE)


async def test_only_tokens_of_other_deployments_are_forged() -> None:
    backend = FakeBackend()
    assert await validate_several(backend, FOREIGN) == Deny(Reason.FORGED)
    assert backend.lookups == []


async def test_outage_of_one_lookup_is_unavailable() -> None:
    class HalfBackend(FakeBackend):
        async def find(self, digest: Digest) -> Session | None:
            if digest == OTHER.digest():
                raise StoreUnavailable("postgres", "unavailable in this test")
            return await super().find(digest)

    verdict = await validate_several(HalfBackend(ACTIVE), TOKEN, OTHER)
    assert verdict == Unavailable("postgres")
