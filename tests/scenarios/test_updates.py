"""A change of scopes, and another authentication, reach the other instance and its caches."""

from typing import Any

import aiohttp

from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import check, statuses_until
from tests.scenarios.test_pending_revocations import create_cached_session, post
from tests.stores.waiting import wait_until_async
from tests.support.sidegate import Created, Sidegate


async def patch(
    http: aiohttp.ClientSession, sidegate: Sidegate, session: Created, document: dict[str, Any]
) -> int:
    url = f"http://127.0.0.1:{sidegate.admin_port}/v1/sessions/{session.session_id}"
    key = {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.patch(url, json=document, headers=key) as response:
        return response.status


async def read_scopes(http: aiohttp.ClientSession, sidegate: Sidegate, token: str) -> str | None:
    """Return the scopes that the application receives."""
    headers = {"Authorization": f"Bearer {token}"}
    async with http.get(f"http://{sidegate.address}/forward-auth", headers=headers) as response:
        assert response.status == 200
        return response.headers.get("X-Auth-Scopes")


async def test_scopes_that_were_taken_are_gone_everywhere_for_good(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session = await create_cached_session(http, deployment)
    assert await read_scopes(http, deployment.other, session.token) == "read write"

    assert await patch(http, deployment.one, session, {"scopes": ["read"]}) == 200

    assert await read_scopes(http, deployment.one, session.token) == "read"

    async def is_known_to_the_other() -> bool:
        return await read_scopes(http, deployment.other, session.token) == "read"

    await wait_until_async(is_known_to_the_other)
    for _ in range(50):
        for sidegate in (deployment.one, deployment.other):
            assert await read_scopes(http, sidegate, session.token) == "read"


async def test_token_from_before_another_authentication_ends_everywhere(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session = await create_cached_session(http, deployment)
    path = f"/v1/sessions/{session.session_id}/reauthenticated"

    status, issued = await post(http, deployment.one, path, {"scopes": ["read", "pay"]})

    assert status == 200
    assert await check(http, deployment.one, session.token) == 401
    await statuses_until(http, deployment.other, session.token, last=401)
    for sidegate in (deployment.one, deployment.other):
        assert await read_scopes(http, sidegate, issued["token"]) == "read pay"
    status, problem = await post(http, deployment.other, "/v1/refresh", {"token": session.token})
    assert (status, problem["code"]) == (400, "invalid_token")
    assert await check(http, deployment.other, issued["token"]) == 200
