"""From the text of a logout token to what it asks for, if the provider has signed it."""

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

# A JWS in its compact form; a JWE has five parts.
_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
_LONGEST: Final = 16 * 1024
_KEY_ID: Final = 256
_TYPE: Final = "logout+jwt"
_ANY_TYPE: Final = "jwt"


@dataclass(frozen=True, slots=True)
class Header:
    """What is read of a token's header: which key is said to have signed it, and how."""

    key_id: str | None
    algorithm: str


class LogoutTokens:
    """Reads the logout tokens of one provider."""

    def __init__(
        self,
        provider: Provider,
        keys: ProviderKeys,
        *,
        algorithms: Collection[str],
        require_typ: bool,
        clock: Clock,
    ) -> None:
        """`require_typ` refuses what does not say by its `typ` that it is a logout token."""
        self._provider = provider
        self._keys = keys
        self._algorithms = frozenset(algorithms)
        self._types = {_TYPE} if require_typ else {_TYPE, _ANY_TYPE}
        self._clock = clock

    async def read(self, text: str) -> Logout:
        """Return what a logout token asks for.

        BadLogoutToken: it is none of this provider's, for us and for now. KeysUnavailable: nobody
        knows. What it says is read when its signature has been verified, and not before.
        """
        header, payload = _parts(text)
        wanted = self._wanted(header)
        key = await self._keys.find(wanted.key_id, wanted.algorithm)
        if key is None:
            raise BadLogoutToken("the provider has no such key")
        if not key.verifies(text):
            raise BadLogoutToken("the signature is wrong")
        return read_logout(_object(payload), self._provider, self._clock.now())

    def _wanted(self, raw: bytes) -> Header:
        """Keys in the header, or their addresses, are not looked at: a forger's would fit."""
        header = _object(raw)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise BadLogoutToken("alg is not one of the provider's algorithms")
        if _type(header) not in self._types:
            raise BadLogoutToken(f"typ is not {_TYPE}")
        if "crit" in header or "b64" in header:
            raise BadLogoutToken("the header asks for what nobody here understands")
        if "kid" in header and not (isinstance(key_id, str) and 1 <= len(key_id) <= _KEY_ID):
            raise BadLogoutToken(f"kid is not 1 to {_KEY_ID} characters")
        return Header(key_id, algorithm)


def _parts(text: str) -> tuple[bytes, bytes]:
    """Return header and payload of a compact JWS; of its signature PyJWT sees to the spelling."""
    if len(text) > _LONGEST:
        raise BadLogoutToken(f"it is longer than {_LONGEST} characters")
    spelled = _COMPACT.fullmatch(text)
    if spelled is None:
        raise BadLogoutToken("it is no signed JWT in compact form")
    return _decoded(spelled[1]), _decoded(spelled[2])


def _decoded(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise BadLogoutToken("a part of it is no base64url") from None


def _object(raw: bytes) -> dict[str, Any]:
    try:
        document = strict_json.read(raw)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BadLogoutToken("a part of it is no JSON object with one meaning")
    return document


def _type(header: dict[str, Any]) -> str:
    """Return `typ` in lower case and without `application/`, which RFC 7515 4.1.9 lets go."""
    given = header.get("typ", _ANY_TYPE)
    return given.lower().removeprefix("application/") if isinstance(given, str) else ""
