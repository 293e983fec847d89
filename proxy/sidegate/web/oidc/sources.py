"""Where a provider's keys come from: a file, a URL, or what discovery says.

Whatever comes is small and comes without redirects: it is asked for where the settings say, by
https, and nowhere else.
"""

import asyncio
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, hdrs

from sidegate.core.secure_url import is_secure
from sidegate.web.oidc.keys import Source, Unfetched
from sidegate.web.schemas import strict_json

# A JWK Set with the certificates of a dozen keys is about 30 KB.
LIMIT: Final = 256 * 1024
_WELL_KNOWN: Final = "/.well-known/openid-configuration"
_HEADERS: Final = {
    hdrs.ACCEPT: "application/json",
    hdrs.ACCEPT_ENCODING: "identity",  # what is small on the way might not be small here
    hdrs.USER_AGENT: "sidegate",
}


def from_file(path: Path) -> Source:
    """Read the JWK Set in a file, whenever it is asked for."""

    async def read() -> bytes:
        try:
            return await asyncio.to_thread(_beginning, path)
        except OSError as error:
            raise Unfetched(f"jwks_file cannot be read: {error.strerror}") from None

    return read


def from_url(url: str) -> Source:
    """Fetch the JWK Set at `url`, one that `is_secure`."""

    async def fetch() -> bytes:
        return await _fetched(url)

    return fetch


def by_discovery(issuer: str) -> Source:
    """Fetch the JWK Set that the issuer's discovery document names (OpenID Connect Discovery 4)."""

    async def fetch() -> bytes:
        found = await _fetched(issuer.removesuffix("/") + _WELL_KNOWN)
        return await _fetched(discovered(strict_json.read(found), issuer))

    return fetch


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return _small(file.read(LIMIT + 1))


def discovered(document: object, issuer: str) -> str:
    """Return where a discovery document says the keys are. Unfetched: nowhere we would go."""
    found = document if isinstance(document, dict) else {}
    if found.get("issuer") != issuer:
        raise Unfetched("the discovery document is another issuer's")
    uri = found.get("jwks_uri")
    if not isinstance(uri, str) or not is_secure(uri) or _leads_inside(uri, issuer):
        raise Unfetched("the discovery document names no jwks_uri by https")
    return uri


def _leads_inside(uri: str, issuer: str) -> bool:
    """An issuer elsewhere is not to send us to a port of this machine."""
    return issuer.startswith("https:") and not uri.startswith("https:")


async def _fetched(url: str) -> bytes:
    try:
        async with (
            # Whoever asks has patience, and says how much.
            ClientSession(
                headers=_HEADERS, timeout=ClientTimeout(), auto_decompress=False
            ) as client,
            client.get(url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise Unfetched(f"the provider answers {answer.status}")
            body = b""
            async for chunk in answer.content.iter_any():
                body = _small(body + chunk)
            return body
    except (ClientError, OSError) as error:
        raise Unfetched(f"the provider cannot be reached: {type(error).__name__}") from None


def _small(document: bytes) -> bytes:
    if len(document) > LIMIT:
        raise Unfetched(f"it is larger than {LIMIT} bytes")
    return document
