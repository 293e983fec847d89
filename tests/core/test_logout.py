"""Logout tokens as values: the same token is the same logout, and how long that must be known.

What they may say and may not, the table of tests/web/test_logout_forged.py has.
"""

from datetime import timedelta
from typing import Any

import pytest

from sidegate.core.condition import Condition
from sidegate.core.errors import BadLogoutToken
from sidegate.core.logout import EVENT, LEEWAY, OLDEST, Logout, Provider, read_logout
from tests.support.clock import NOON

IDP = Provider("idp", "https://id.example", "shop")
NOW = NOON.timestamp()
MINUTE = timedelta(minutes=1)


def claims(**changes: Any) -> dict[str, Any]:
    usual = {"iss": IDP.issuer, "aud": "shop", "iat": NOW, "exp": NOW + 120, "jti": "1"}
    return usual | {"events": {EVENT: {}}, "sid": "s1"} | changes


def test_the_same_token_is_the_same_logout_however_late_it_comes() -> None:
    early = read_logout(claims(), IDP, NOON)
    late = read_logout(claims(), IDP, NOON + MINUTE)

    assert early == late
    assert len(early.id) == 32


@pytest.mark.parametrize(
    "other",
    [
        read_logout(claims(jti="2"), IDP, NOON),
        read_logout(claims(), Provider("other", IDP.issuer, "shop"), NOON),
        read_logout(claims(jti='1", "'), IDP, NOON),
    ],
)
def test_another_token_or_another_providers_is_another_logout(other: Logout) -> None:
    assert other.id != read_logout(claims(), IDP, NOON).id


@pytest.mark.parametrize("exp", [NOW + 1, NOW + 120, NOW + OLDEST, NOW + 10**9])
def test_it_is_remembered_for_longer_than_anybody_reads_it(exp: float) -> None:
    token = claims(exp=exp)
    until = read_logout(token, IDP, NOON).until

    clock_of_another = until - 4 * MINUTE
    with pytest.raises(BadLogoutToken, match="too old"):
        read_logout(token, IDP, clock_of_another)
    assert until <= NOON + timedelta(seconds=OLDEST + LEEWAY) + 5 * MINUTE


def test_the_leeway_ends_where_it_ends() -> None:
    edge = timedelta(seconds=LEEWAY)
    late, early = claims(exp=NOW), claims(iat=NOW + LEEWAY)

    read_logout(late, IDP, NOON + edge - timedelta(milliseconds=1))
    read_logout(early, IDP, NOON)

    with pytest.raises(BadLogoutToken, match="too old"):
        read_logout(late, IDP, NOON + edge)
    with pytest.raises(BadLogoutToken, match="future"):
        read_logout(early, IDP, NOON - timedelta(milliseconds=1))


def test_with_both_ids_a_session_must_not_be_somebody_elses() -> None:
    assert read_logout(claims(sub="u1"), IDP, NOON).conditions() == (
        Condition(provider="idp", provider_session_id="s1", provider_subject="u1"),
        Condition(provider="idp", provider_session_id="s1", subject_unknown=True),
    )


def test_no_condition_of_a_logout_leaves_the_provider_out() -> None:
    for session_id, subject in (("s1", None), (None, "u1"), ("s1", "u1")):
        for condition in Logout("idp", bytes(32), NOON, session_id, subject).conditions():
            assert condition.provider == "idp"
            assert condition.provider_session_id or condition.provider_subject


def test_a_logout_does_not_show_its_id() -> None:
    logout = read_logout(claims(), IDP, NOON)
    assert repr(logout.id) not in repr(logout)
