"""Back-channel logout at the identity provider ends sessions at every instance."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.scenarios.test_outages import check, statuses_until
from tests.support.certificate import write_certificate
from tests.support.sidegate import Sidegate
from tests.web.oidc.identity_provider import CLIENT_ID, IdentityProvider, Signer, identity_provider


@pytest.fixture
async def idp(tmp_path: Path) -> AsyncIterator[IdentityProvider]:
    """A provider with a self-signed certificate."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*write_certificate(tmp_path))
    async with identity_provider(Signer.of("ES256"), ssl=tls) as provider:
        yield provider


@pytest.fixture
def logout_settings(idp: IdentityProvider, tmp_path: Path) -> dict[str, str]:
    """Settings of an instance that accepts its logout tokens, found by its issuer."""
    provider = {"name": "idp", "issuer": idp.issuer, "client_id": CLIENT_ID}
    return {
        "SIDEGATE_SSO__PROVIDERS": json.dumps([provider]),
        "SSL_CERT_FILE": str(tmp_path / "localhost.pem"),
    }


async def log_out(
    http: aiohttp.ClientSession, sidegate: Sidegate, logout_token: str
) -> tuple[int, str]:
    url = f"http://127.0.0.1:{sidegate.admin_port}/oidc/backchannel-logout/idp"
    async with http.post(url, data={"logout_token": logout_token}) as response:
        return response.status, await response.text()


def build_logout_token(idp: IdentityProvider, **changes: Any) -> str:
    now = int(time.time())
    return idp.logout_token(iat=now, exp=now + 120, **changes)


async def test_logout_token_ends_its_session_at_every_instance_once(
    instances: Callable[..., Sidegate],
    logout_settings: dict[str, str],
    idp: IdentityProvider,
    http: aiohttp.ClientSession,
) -> None:
    one, other = await asyncio.to_thread(
        lambda: (instances(**logout_settings), instances(**logout_settings))
    )
    of_provider = {"type": "sso", "provider": "idp", "provider_subject": "u1"}
    matched = await asyncio.to_thread(one.create_session, **of_provider, provider_session_id="s1")
    unmatched = await asyncio.to_thread(one.create_session, **of_provider, provider_session_id="s2")
    for sidegate in (one, other):
        assert await check(http, sidegate, matched.token) == 200
        assert await check(http, sidegate, unmatched.token) == 200
    logout_token = build_logout_token(idp, sid="s1", sub="u1")

    assert await log_out(http, one, logout_token) == (200, "")

    for sidegate in (one, other):
        await statuses_until(http, sidegate, matched.token, last=401)
        assert await check(http, sidegate, unmatched.token) == 200
    session = await asyncio.to_thread(other.show_session, matched.session_id)
    assert (session["revoked_by"], session["revoked_reason"]) == ("provider:idp", "logout")
    status, body = await log_out(http, other, logout_token)
    assert (status, json.loads(body)["error_description"]) == (400, "it was processed before")
    assert sorted(set(idp.requested_paths)) == ["/.well-known/openid-configuration", "/jwks"]
