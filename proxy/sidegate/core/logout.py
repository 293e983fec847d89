"""Validation of logout tokens, and the sessions that a logout ends.

Sections 2.4 to 2.7 of OpenID Connect Back-Channel Logout 1.0, except for the signature, which is
verified before the claims are read.
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
CLOCK_LEEWAY: Final = 30.0
"""Seconds by which the clocks of the provider and of Sidegate may differ."""
MAX_AGE: Final = 300.0
"""Seconds after `iat` for which a logout token is accepted, even if `exp` is later."""

# Characters. Sessions store no longer provider ids.
_MAX_ID_LENGTH: Final = 512
# Seconds by which the clocks of Sidegate's instances may differ, with a wide margin.
_INSTANCE_CLOCK_SKEW: Final = 300.0


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider: its `name` in sessions, and the `client_id` it has for Sidegate."""

    name: str
    issuer: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Logout:
    """The end of one session at the provider, or of all sessions of a user.

    At least one of `provider_session_id` and `provider_subject` is not None. `id` has 32 bytes and
    is the same for every delivery of a token. After `until` no instance accepts that token.
    """

    provider: str
    id: bytes = field(repr=False)
    until: datetime
    provider_session_id: str | None
    provider_subject: str | None

    def conditions(self) -> tuple[Condition, ...]:
        """Return the conditions of the sessions to revoke.

        With both ids, a session must match both, or match the session id and have no subject.
        """
        session_id, subject = self.provider_session_id, self.provider_subject
        if session_id is None:
            return (Condition(provider=self.provider, provider_subject=subject),)
        by_session_id = Condition(provider=self.provider, provider_session_id=session_id)
        if subject is None:
            return (by_session_id,)
        return (
            by_session_id.narrowed(provider_subject=subject),
            by_session_id.narrowed(subject_unknown=True),
        )


def read_logout(claims: Mapping[str, object], provider: Provider, *, now: datetime) -> Logout:
    """Return the logout in the claims of a token whose signature by `provider` was verified.

    Raise BadLogoutToken if it is not a logout token, is for another client, or is not valid now.
    """
    _check_parties(claims, provider)
    _check_event(claims)
    deadline = _check_times(claims, now.timestamp())
    session_id, subject, token_id = (_read_text(claims, name) for name in ("sid", "sub", "jti"))
    _require(session_id is not None or subject is not None, "it has neither sid nor sub")
    _require(token_id is not None, "it has no jti")
    return Logout(
        provider=provider.name,
        id=sha256(json.dumps([provider.name, token_id]).encode("ascii")).digest(),
        until=datetime.fromtimestamp(deadline + _INSTANCE_CLOCK_SKEW, UTC),
        provider_session_id=session_id,
        provider_subject=subject,
    )


def _require(condition: bool, error: str) -> None:
    if not condition:
        raise BadLogoutToken(error)


def _check_parties(claims: Mapping[str, object], provider: Provider) -> None:
    _require(claims.get("iss") == provider.issuer, "iss is not the provider's issuer")
    aud = claims.get("aud")
    audience = aud if isinstance(aud, list) else [aud]
    _require(all(isinstance(each, str) for each in audience), "aud is not a string or a list")
    _require(provider.client_id in audience, "aud does not contain the client_id")


def _check_event(claims: Mapping[str, object]) -> None:
    """Reject ID tokens and all other kinds of tokens: only logout tokens have this event."""
    events = claims.get("events")
    if not isinstance(events, dict) or list(events) != [EVENT]:
        raise BadLogoutToken("events does not have the logout event alone")
    _require(isinstance(events[EVENT], dict), "the logout event is not an object")
    _require("nonce" not in claims, "it has a nonce")


def _check_times(claims: Mapping[str, object], now: float) -> float:
    """Return the Unix time from which on the token is not accepted."""
    issued, expires, not_before = (_read_time(claims, name) for name in ("iat", "exp", "nbf"))
    if issued is None or expires is None:
        raise BadLogoutToken("it needs both iat and exp")
    deadline = min(expires, issued + MAX_AGE) + CLOCK_LEEWAY
    _require(now < deadline, "it is too old")
    _require(max(issued, not_before or 0) <= now + CLOCK_LEEWAY, "it is from the future")
    return deadline


def _read_time(claims: Mapping[str, object], name: str) -> float | None:
    """Return a NumericDate of RFC 7519 in seconds since 1970, or None if the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise BadLogoutToken(f"{name} is not a number of seconds")
    return float(value)


def _read_text(claims: Mapping[str, object], name: str) -> str | None:
    if name not in claims:
        return None
    value = claims[name]
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= _MAX_ID_LENGTH
        or not value.isprintable()
    ):
        raise BadLogoutToken(f"{name} is not 1 to {_MAX_ID_LENGTH} printable characters")
    return value
