"""An identity provider of a test: a real HTTP server with keys, which can be made to misbehave."""

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


def encoded(raw: bytes | str) -> str:
    """Spell base64url without padding."""
    raw = raw.encode() if isinstance(raw, str) else raw
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def spelled(document: object) -> bytes:
    """Spell JSON; what is bytes already stands for itself."""
    return document if isinstance(document, bytes) else json.dumps(document).encode()


@cache  # a key takes a tenth of a second to make, and no test changes one
def private_key(kind: str, name: str = "") -> Any:
    """Make the key of this name: RSA, RSA1024, P-256, P-384, P-521 or Ed25519."""
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
    """A key with the algorithm it is used with."""

    algorithm: str
    kid: str
    key: Any

    @classmethod
    def of(cls, algorithm: str, kid: str | None = None) -> "Signer":
        kind = _CURVES.get(algorithm) or _KINDS[algorithm[0]]
        return cls(algorithm, kid or f"{algorithm}-1", private_key(kind, kid or algorithm))

    def jwk(self, **more: object) -> dict[str, Any]:
        """Return the public key as a JWK Set has it."""
        public = _ALGORITHMS[self.algorithm].to_jwk(self.key.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": self.algorithm, **more}

    def signature(self, signed: str) -> bytes:
        return _ALGORITHMS[self.algorithm].sign(signed.encode(), self.key)

    def header(self, **more: object) -> dict[str, Any]:
        return {"alg": self.algorithm, "kid": self.kid, "typ": "logout+jwt", **more}

    def sign(self, payload: object, header: object = None) -> str:
        """Return a compact JWS over `payload`; `header` replaces the usual one."""
        head = spelled(self.header() if header is None else header)
        signed = f"{encoded(head)}.{encoded(spelled(payload))}"
        return f"{signed}.{encoded(self.signature(signed))}"


def claims(issuer: str, **changes: Any) -> dict[str, Any]:
    """Return what a logout token of noon says; a change to `...` leaves a claim out."""
    noon = int(NOON.timestamp())
    usual = {
        "iss": issuer,
        "aud": CLIENT_ID,
        "iat": noon,
        "exp": noon + 120,
        "jti": f"logout-{next(_numbers)}",
        "events": {EVENT: {}},
        "sid": "s1",
    }
    return {name: value for name, value in (usual | changes).items() if value is not ...}


@dataclass
class IdentityProvider:
    """What it publishes, and what it was asked for. Change either at will."""

    issuer: str = ""
    signers: list[Signer] = field(default_factory=list)
    more_keys: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    faults: dict[str, web.Response | bytes] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    open: asyncio.Event = field(default_factory=asyncio.Event)  # clear it, and answers wait
    called: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/jwks"

    @property
    def provider(self) -> Provider:
        return Provider("idp", self.issuer, CLIENT_ID)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [*(signer.jwk() for signer in self.signers), *self.more_keys]}

    def logout_token(self, signer: Signer | None = None, **changes: Any) -> str:
        """Return a right logout token of noon, but for the changes."""
        return (signer or self.signers[0]).sign(claims(self.issuer, **changes))

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.called.set()
        await self.open.wait()
        fault = self.faults.get(request.path)
        if isinstance(fault, web.Response):
            return fault
        if isinstance(fault, bytes):
            return web.Response(body=fault)
        if request.path == "/.well-known/openid-configuration":
            usual = {"issuer": self.issuer, "jwks_uri": self.jwks_uri}
            return web.json_response(usual | self.discovery)
        return web.json_response(self.jwks())


@asynccontextmanager
async def identity_provider(
    *signers: Signer, ssl: SSLContext | None = None
) -> AsyncIterator[IdentityProvider]:
    """Open a provider with the keys of these signers, on this machine."""
    provider = IdentityProvider(signers=list(signers))
    provider.open.set()
    application = web.Application()
    application.router.add_get("/{anything:.*}", provider.answer)
    server = TestServer(application)
    await server.start_server(ssl=ssl)
    scheme = "http" if ssl is None else "https"
    provider.issuer = f"{scheme}://localhost:{server.port}"
    try:
        yield provider
    finally:
        provider.open.set()  # whoever still waits may go
        await server.close()
