"""Logouts: identity, validity in time and conditions.

tests/web/oidc/test_forged.py has the table of invalid logout tokens.
"""

from datetime import timedelta
from typing import Any

import pytest

from sidegate.core.condition import Condition
from sidegate.core.errors import BadLogoutToken
from sidegate.core.logout import CLOCK_LEEWAY, EVENT, MAX_AGE, Logout, Provider, read_logout
from tests.support.clock import NOON

IDP = Provider("idp", "https://id.example", "shop")
NOW = NOON.timestamp()
MINUTE = timedelta(minutes=1)


def claims(**changes: Any) -> dict[str, Any]:
    defaults = {"iss": IDP.issuer, "aud": "shop", "iat": NOW, "exp": NOW + 120, "jti": "1"}
    return defaults | {"events": {EVENT: {}}, "sid": "s1"} | changes


def test_same_token_gives_the_same_logout_at_any_time() -> None:
    early = read_logout(claims(), IDP, now=NOON)
    late = read_logout(claims(), IDP, now=NOON + MINUTE)

    assert early == late
    assert len(early.id) == 32


@pytest.mark.parametrize(
    "other",
    [
        read_logout(claims(jti="2"), IDP, now=NOON),
        read_logout(claims(), Provider("other", IDP.issuer, "shop"), now=NOON),
        read_logout(claims(jti='1", "'), IDP, now=NOON),
    ],
)
def test_other_token_or_provider_gives_another_logout_id(other: Logout) -> None:
    assert other.id != read_logout(claims(), IDP, now=NOON).id


@pytest.mark.parametrize("exp", [NOW + 1, NOW + 120, NOW + MAX_AGE, NOW + 10**9])
def test_until_is_after_the_last_time_any_instance_accepts_the_token(exp: float) -> None:
    token = claims(exp=exp)
    until = read_logout(token, IDP, now=NOON).until

    slowest_clock = until - 4 * MINUTE
    with pytest.raises(BadLogoutToken, match="too old"):
        read_logout(token, IDP, now=slowest_clock)
    assert until <= NOON + timedelta(seconds=MAX_AGE + CLOCK_LEEWAY) + 5 * MINUTE


def test_clock_leeway_is_exact() -> None:
    edge = timedelta(seconds=CLOCK_LEEWAY)
    late, early = claims(exp=NOW), claims(iat=NOW + CLOCK_LEEWAY)

    read_logout(late, IDP, now=NOON + edge - timedelta(milliseconds=1))
    read_logout(early, IDP, now=NOON)

    with pytest.raises(BadLogoutToken, match="too old"):
        read_logout(late, IDP, now=NOON + edge)
    with pytest.raises(BadLogoutToken, match="future"):
        read_logout(early, IDP, now=NOON - timedelta(milliseconds=1))


def test_conditions_with_both_ids_exclude_other_subjects() -> None:
    assert read_logout(claims(sub="u1"), IDP, now=NOON).conditions() == (
        Condition(provider="idp", provider_session_id="s1", provider_subject="u1"),
        Condition(provider="idp", provider_session_id="s1", subject_unknown=True),
    )


def test_every_condition_has_the_provider_and_an_id() -> None:
    for session_id, subject in (("s1", None), (None, "u1"), ("s1", "u1")):
        for condition in Logout("idp", bytes(32), NOON, session_id, subject).conditions():
            assert condition.provider == "idp"
            assert condition.provider_session_id or condition.provider_subject


def test_repr_does_not_contain_the_id() -> None:
    logout = read_logout(claims(), IDP, now=NOON)
    assert repr(logout.id) not in repr(logout)
