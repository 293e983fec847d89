"""An identity provider for tests: a real HTTP server with keys, which can be made to fail."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from ssl import SSLContext
from typing import Any, Final

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import get_default_algorithms

from sidegate.core.logout import EVENT, Provider
from tests.support.clock import NOON

CLIENT_ID: Final = "shop"
_ALGORITHMS: Final = get_default_algorithms()
_numbers: Final = count(1)


def base64url(raw: bytes | str) -> str:
    """Return `raw` as base64url without padding."""
    raw = raw.encode() if isinstance(raw, str) else raw
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def to_json(document: object) -> bytes:
    """Return `document` as JSON; bytes are returned unchanged."""
    return document if isinstance(document, bytes) else json.dumps(document).encode()


@cache  # generating a key takes 0.1 s
def private_key(kind: str, name: str = "") -> Any:
    """Return the key with this name, of kind RSA, RSA1024, P-256, P-384, P-521 or Ed25519."""
    del name
    match kind:
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case "RSA1024":
            return rsa.generate_private_key(65537, 1024)
        case "Ed25519":
            return Ed25519PrivateKey.generate()
        case curve:
            curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
            return ec.generate_private_key(curves[curve])


_KINDS: Final = {"R": "RSA", "P": "RSA", "E": "Ed25519"}
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


@dataclass(frozen=True)
class Signer:
    """A private key with its algorithm."""

    algorithm: str
    kid: str
    key: Any

    @classmethod
    def of(cls, algorithm: str, kid: str | None = None) -> "Signer":
        kind = _CURVES.get(algorithm) or _KINDS[algorithm[0]]
        return cls(algorithm, kid or f"{algorithm}-1", private_key(kind, kid or algorithm))

    def jwk(self, **more: object) -> dict[str, Any]:
        """Return the public key as a JWK."""
        public = _ALGORITHMS[self.algorithm].to_jwk(self.key.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": self.algorithm, **more}

    def signature(self, signed: str) -> bytes:
        return _ALGORITHMS[self.algorithm].sign(signed.encode(), self.key)

    def header(self, **more: object) -> dict[str, Any]:
        return {"alg": self.algorithm, "kid": self.kid, "typ": "logout+jwt", **more}

    def sign(self, payload: object, header: object = None) -> str:
        """Return a compact JWS of `payload`; `header` replaces the default one."""
        raw_header = to_json(self.header() if header is None else header)
        signed = f"{base64url(raw_header)}.{base64url(to_json(payload))}"
        return f"{signed}.{base64url(self.signature(signed))}"


def logout_claims(issuer: str, **changes: Any) -> dict[str, Any]:
    """Return the claims of a logout token issued at NOON; a change to `...` removes a claim."""
    noon = int(NOON.timestamp())
    defaults = {
        "iss": issuer,
        "aud": CLIENT_ID,
        "iat": noon,
        "exp": noon + 120,
        "jti": f"logout-{next(_numbers)}",
        "events": {EVENT: {}},
        "sid": "s1",
    }
    return {name: value for name, value in (defaults | changes).items() if value is not ...}


@dataclass
class IdentityProvider:
    """The state of the server: what it publishes, and which paths were requested."""

    issuer: str = ""
    signers: list[Signer] = field(default_factory=list)
    more_keys: list[dict[str, Any]] = field(default_factory=list)
    requested_paths: list[str] = field(default_factory=list)
    faults: dict[str, web.Response | bytes] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)  # clear it to delay responses
    requested: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/jwks"

    @property
    def provider(self) -> Provider:
        return Provider("idp", self.issuer, CLIENT_ID)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [*(signer.jwk() for signer in self.signers), *self.more_keys]}

    def logout_token(self, signer: Signer | None = None, **changes: Any) -> str:
        """Return a valid logout token issued at NOON, apart from `changes`."""
        return (signer or self.signers[0]).sign(logout_claims(self.issuer, **changes))

    async def respond(self, request: web.Request) -> web.Response:
        self.requested_paths.append(request.path)
        self.requested.set()
        await self.may_answer.wait()
        fault = self.faults.get(request.path)
        if isinstance(fault, web.Response):
            return fault
        if isinstance(fault, bytes):
            return web.Response(body=fault)
        if request.path == "/.well-known/openid-configuration":
            document = {"issuer": self.issuer, "jwks_uri": self.jwks_uri}
            return web.json_response(document | self.discovery)
        return web.json_response(self.jwks())


@asynccontextmanager
async def identity_provider(
    *signers: Signer, ssl: SSLContext | None = None
) -> AsyncIterator[IdentityProvider]:
    """Start a provider on localhost that publishes the keys of `signers`."""
    provider = IdentityProvider(signers=list(signers))
    provider.may_answer.set()
    application = web.Application()
    application.router.add_get("/{anything:.*}", provider.respond)
    server = TestServer(application)
    await server.start_server(ssl=ssl)
    scheme = "http" if ssl is None else "https"
    provider.issuer = f"{scheme}://localhost:{server.port}"
    try:
        yield provider
    finally:
        provider.may_answer.set()  # release waiting requests
        await server.close()
