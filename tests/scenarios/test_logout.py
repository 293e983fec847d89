"""A user logs out at the identity provider, and is logged out at every instance."""

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
from tests.support.certificate import certificate
from tests.support.sidegate import Sidegate
from tests.web.oidc.identity_provider import CLIENT_ID, IdentityProvider, Signer, identity_provider


@pytest.fixture
async def idp(tmp_path: Path) -> AsyncIterator[IdentityProvider]:
    """A provider with a certificate of its own making."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate(tmp_path))
    async with identity_provider(Signer.of("ES256"), ssl=tls) as provider:
        yield provider


@pytest.fixture
def listening(idp: IdentityProvider, tmp_path: Path) -> dict[str, str]:
    """The settings of an instance that listens to it: the issuer is all it is told."""
    provider = {"name": "idp", "issuer": idp.issuer, "client_id": CLIENT_ID}
    return {
        "SIDEGATE_SSO__PROVIDERS": json.dumps([provider]),
        "SSL_CERT_FILE": str(tmp_path / "localhost.pem"),
    }


async def log_out(
    http: aiohttp.ClientSession, sidegate: Sidegate, logout_token: str
) -> tuple[int, str]:
    url = f"http://127.0.0.1:{sidegate.admin_port}/oidc/backchannel-logout/idp"
    async with http.post(url, data={"logout_token": logout_token}) as answer:
        return answer.status, await answer.text()


def a_logout_token(idp: IdentityProvider, **changes: Any) -> str:
    now = int(time.time())
    return idp.logout_token(iat=now, exp=now + 120, **changes)


async def test_a_logout_at_the_provider_ends_its_sessions_everywhere_and_once(
    instances: Callable[..., Sidegate],
    listening: dict[str, str],
    idp: IdentityProvider,
    http: aiohttp.ClientSession,
) -> None:
    one, other = await asyncio.to_thread(lambda: (instances(**listening), instances(**listening)))
    of_provider = {"type": "sso", "provider": "idp", "provider_subject": "u1"}
    doomed = await asyncio.to_thread(one.create_session, **of_provider, provider_session_id="s1")
    spared = await asyncio.to_thread(one.create_session, **of_provider, provider_session_id="s2")
    for sidegate in (one, other):
        assert await check(http, sidegate, doomed.token) == 200
        assert await check(http, sidegate, spared.token) == 200
    logout_token = a_logout_token(idp, sid="s1", sub="u1")

    assert await log_out(http, one, logout_token) == (200, "")

    for sidegate in (one, other):
        await statuses_until(http, sidegate, doomed.token, last=401)
        assert await check(http, sidegate, spared.token) == 200
    shown = await asyncio.to_thread(other.show_session, doomed.session_id)
    assert (shown["revoked_by"], shown["revoked_reason"]) == ("provider:idp", "logout")
    status, answer = await log_out(http, other, logout_token)
    assert (status, json.loads(answer)["error_description"]) == (400, "it was obeyed before")
    assert sorted(set(idp.asked)) == ["/.well-known/openid-configuration", "/jwks"]
