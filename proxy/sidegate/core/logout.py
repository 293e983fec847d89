"""What a logout token must say, and whose sessions it ends.

Sections 2.4 to 2.7 of OpenID Connect Back-Channel Logout 1.0, but for the signature: that has been
checked before, for what nobody has signed is not read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from sidegate.core.condition import Condition
from sidegate.core.errors import BadLogoutToken

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
LEEWAY: Final = 30.0
"""Seconds by which the provider's clock and ours may differ."""
OLDEST: Final = 300.0
"""Seconds for which a logout token is obeyed, however long it says it lasts."""

# Characters; sessions keep no longer ids of a provider's.
_LONGEST: Final = 512
# Seconds by which our own instances' clocks may differ, more than generously.
_OUR_CLOCKS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider: `name` is what sessions call it, `client_id` what it calls us."""

    name: str
    issuer: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Logout:
    """A session at the provider has ended, or all of a user's; at least one of the two is given.

    `id` is the same 32 bytes whenever the same logout token is read; after `until` no instance
    reads that token any more.
    """

    provider: str
    id: bytes = field(repr=False)
    until: datetime
    provider_session_id: str | None
    provider_subject: str | None

    def conditions(self) -> tuple[Condition, ...]:
        """Return which sessions are to end. With both ids, a session must fit both, or fit the
        first and not say whose it is."""
        session_id, subject = self.provider_session_id, self.provider_subject
        if session_id is None:
            return (Condition(provider=self.provider, provider_subject=subject),)
        of_session = Condition(provider=self.provider, provider_session_id=session_id)
        if subject is None:
            return (of_session,)
        return (
            of_session.narrowed(provider_subject=subject),
            of_session.narrowed(subject_unknown=True),
        )


def read_logout(claims: Mapping[str, object], provider: Provider, now: datetime) -> Logout:
    """Return what the claims of a token that `provider` has signed ask for.

    BadLogoutToken: they are no logout token's, or not for us, or not for now.
    """
    _check_parties(claims, provider)
    _check_event(claims)
    over = _check_times(claims, now.timestamp())
    session_id, subject, token_id = (_text(claims, name) for name in ("sid", "sub", "jti"))
    _insist(session_id is not None or subject is not None, "it has neither sid nor sub")
    _insist(token_id is not None, "it has no jti")
    return Logout(
        provider=provider.name,
        id=sha256(json.dumps([provider.name, token_id]).encode("ascii")).digest(),
        until=datetime.fromtimestamp(over + _OUR_CLOCKS, UTC),
        provider_session_id=session_id,
        provider_subject=subject,
    )


def _insist(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadLogoutToken(otherwise)


def _check_parties(claims: Mapping[str, object], provider: Provider) -> None:
    _insist(claims.get("iss") == provider.issuer, "iss is not the provider's issuer")
    given = claims.get("aud")
    audience = given if isinstance(given, list) else [given]
    _insist(all(isinstance(each, str) for each in audience), "aud is neither a text nor a list")
    _insist(provider.client_id in audience, "aud does not name our client_id")


def _check_event(claims: Mapping[str, object]) -> None:
    """A token that says anything else is an ID token, or one of another kind."""
    events = claims.get("events")
    if not isinstance(events, dict) or list(events) != [EVENT]:
        raise BadLogoutToken("events is not the one of logout")
    _insist(isinstance(events[EVENT], dict), "the event is no object")
    _insist("nonce" not in claims, "it has a nonce")


def _check_times(claims: Mapping[str, object], now: float) -> float:
    """Return the second after which nobody obeys it any more."""
    issued, expires, begins = (_second(claims, name) for name in ("iat", "exp", "nbf"))
    if issued is None or expires is None:
        raise BadLogoutToken("it needs both iat and exp")
    over = min(expires, issued + OLDEST) + LEEWAY
    _insist(now < over, "it is too old")
    _insist(max(issued, begins or 0) <= now + LEEWAY, "it is of the future")
    return over


def _second(claims: Mapping[str, object], name: str) -> float | None:
    """Return a moment as RFC 7519 tells it, in seconds since 1970."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise BadLogoutToken(f"{name} is no number of seconds")
    return float(value)


def _text(claims: Mapping[str, object], name: str) -> str | None:
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST or not value.isprintable():
        raise BadLogoutToken(f"{name} is not 1 to {_LONGEST} printable characters")
    return value
