"""Verify and parse logout tokens (OpenID Connect Back-Channel Logout 1.0)."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sidegate.core.clock import Clock
from sidegate.core.errors import BadLogoutToken
from sidegate.core.logout import Logout, Provider, read_logout
from sidegate.web.oidc.keys import ProviderKeys
from sidegate.web.schemas import strict_json

# A JWS in compact form; a JWE has five parts.
_COMPACT_JWS: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
_MAX_LENGTH: Final = 16 * 1024
_MAX_KEY_ID_LENGTH: Final = 256
_LOGOUT_TYPE: Final = "logout+jwt"
_GENERIC_TYPE: Final = "jwt"


@dataclass(frozen=True, slots=True)
class Header:
    """The members of a token's header that select the key."""

    key_id: str | None
    algorithm: str


class LogoutTokenReader:
    """Verifies and parses the logout tokens of one provider."""

    def __init__(
        self,
        provider: Provider,
        keys: ProviderKeys,
        *,
        algorithms: Collection[str],
        require_typ: bool,
        clock: Clock,
    ) -> None:
        """With `require_typ`, a token whose `typ` is not `logout+jwt` is refused."""
        self._provider = provider
        self._keys = keys
        self._algorithms = frozenset(algorithms)
        self._types = {_LOGOUT_TYPE} if require_typ else {_LOGOUT_TYPE, _GENERIC_TYPE}
        self._clock = clock

    async def read(self, text: str) -> Logout:
        """Return the logout that a token requests. The signature is verified before the claims.

        Raise BadLogoutToken if the token is not valid, KeysUnavailable if that cannot be decided.
        """
        raw_header, payload = _split(text)
        header = self._parse_header(raw_header)
        key = await self._keys.find(header.key_id, header.algorithm)
        if key is None:
            raise BadLogoutToken("the provider has no such key")
        if not key.verifies(text):
            raise BadLogoutToken("the signature is not valid")
        return read_logout(_parse_object(payload), self._provider, now=self._clock.now())

    def _parse_header(self, raw: bytes) -> Header:
        """Return the header. Keys and key URLs in it are ignored: an attacker can choose them."""
        header = _parse_object(raw)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise BadLogoutToken("alg is not one of the provider's algorithms")
        if _normalize_type(header) not in self._types:
            raise BadLogoutToken(f"typ is not {_LOGOUT_TYPE}")
        if "crit" in header or "b64" in header:
            raise BadLogoutToken("the header has unsupported extensions")
        if "kid" in header and not (
            isinstance(key_id, str) and 1 <= len(key_id) <= _MAX_KEY_ID_LENGTH
        ):
            raise BadLogoutToken(f"kid is not 1 to {_MAX_KEY_ID_LENGTH} characters")
        return Header(key_id, algorithm)


def _split(text: str) -> tuple[bytes, bytes]:
    """Return header and payload of a compact JWS. PyJWT checks the encoding of the signature."""
    if len(text) > _MAX_LENGTH:
        raise BadLogoutToken(f"the token is longer than {_MAX_LENGTH} characters")
    parts = _COMPACT_JWS.fullmatch(text)
    if parts is None:
        raise BadLogoutToken("the token is not a signed JWT in compact form")
    return _decode(parts[1]), _decode(parts[2])


def _decode(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise BadLogoutToken("the token is not valid base64url") from None


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        document = strict_json.parse(raw)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BadLogoutToken("header or payload is not a valid JSON object")
    return document


def _normalize_type(header: dict[str, Any]) -> str:
    """Return `typ` in lower case, without `application/`, which is optional (RFC 7515, 4.1.9)."""
    typ = header.get("typ", _GENERIC_TYPE)
    return typ.lower().removeprefix("application/") if isinstance(typ, str) else ""
