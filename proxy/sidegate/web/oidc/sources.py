"""Sources of a provider's keys: a file, a URL, or OpenID Connect discovery.

Responses are limited in size, and redirects are not followed.
"""

import asyncio
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, hdrs

from sidegate.core.secure_url import is_secure
from sidegate.web.oidc.keys import FetchFailed, JwksSource
from sidegate.web.schemas import strict_json

# A JWK Set with the certificates of a dozen keys is about 30 KB.
MAX_SIZE: Final = 256 * 1024
_WELL_KNOWN: Final = "/.well-known/openid-configuration"
_HEADERS: Final = {
    hdrs.ACCEPT: "application/json",
    hdrs.ACCEPT_ENCODING: "identity",  # a small compressed body may expand to a large one
    hdrs.USER_AGENT: "sidegate",
}


def file_source(path: Path) -> JwksSource:
    """Return a source that reads the JWK Set in a file."""

    async def read() -> bytes:
        try:
            return await asyncio.to_thread(_read_file, path)
        except OSError as error:
            raise FetchFailed(f"jwks_file cannot be read: {error.strerror}") from None

    return read


def url_source(url: str) -> JwksSource:
    """Return a source that fetches the JWK Set at `url`, which must be secure (`is_secure`)."""

    async def fetch() -> bytes:
        return await _fetch(url)

    return fetch


def discovery_source(issuer: str) -> JwksSource:
    """Return a source that fetches the JWK Set named by the issuer's discovery document."""

    async def fetch() -> bytes:
        document = await _fetch(issuer.removesuffix("/") + _WELL_KNOWN)
        return await _fetch(find_jwks_uri(strict_json.parse(document), issuer))

    return fetch


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return _check_size(file.read(MAX_SIZE + 1))


def find_jwks_uri(document: object, issuer: str) -> str:
    """Return the `jwks_uri` of a discovery document (OpenID Connect Discovery 1.0, section 4).

    Raise FetchFailed if the document is not that of `issuer`, or the URI is not secure.
    """
    members = document if isinstance(document, dict) else {}
    if members.get("issuer") != issuer:
        raise FetchFailed("the discovery document has another issuer")
    uri = members.get("jwks_uri")
    if not isinstance(uri, str) or not is_secure(uri) or _is_downgrade(uri, issuer):
        raise FetchFailed("the discovery document has no jwks_uri with https")
    return uri


def _is_downgrade(uri: str, issuer: str) -> bool:
    """Return whether `uri` lacks the https of `issuer`.

    `is_secure` accepts http on loopback: a remote issuer must not direct requests there.
    """
    return issuer.startswith("https:") and not uri.startswith("https:")


async def _fetch(url: str) -> bytes:
    try:
        async with (
            # Without a timeout: ProviderKeys has one for the whole fetch.
            ClientSession(
                headers=_HEADERS, timeout=ClientTimeout(), auto_decompress=False
            ) as client,
            client.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise FetchFailed(f"the provider responded with status {response.status}")
            body = b""
            async for chunk in response.content.iter_any():
                body = _check_size(body + chunk)
            return body
    except (ClientError, OSError) as error:
        raise FetchFailed(f"cannot connect to the provider: {type(error).__name__}") from None


def _check_size(document: bytes) -> bytes:
    if len(document) > MAX_SIZE:
        raise FetchFailed(f"the document is larger than {MAX_SIZE} bytes")
    return document
