"""A client's own session through the gate: another token, and sign out, safe from other sites."""

import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.address import Address
from sidegate.core.binding import BindingPolicy, Signal
from sidegate.core.clock import SystemClock
from sidegate.core.errors import RevocationPending
from sidegate.core.session import Session
from sidegate.services.binding import ClientBinding
from sidegate.web.gate.app import build_gate_handler
from sidegate.web.gate.own_session import OwnSession, SessionActions
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.server.fast_path import FastPath
from sidegate.web.server.listener import Listener
from sidegate.web.server.trusted_peers import TrustedPeers
from tests.web.admin.admin_listener import AdminHarness, open_admin
from tests.web.raw_http import RawResponse, send_request

SAME_ORIGIN = "Sec-Fetch-Site: same-origin"
PATH = "/.sidegate/session"
CHANGES = ["POST", "DELETE"]


@dataclass
class Site:
    """A gate with the one route, and the admin API of the same sessions."""

    admin: AdminHarness
    address: Address

    async def send(self, method: str, *lines: str, path: str = PATH) -> RawResponse:
        head = (f"{method} {path} HTTP/1.1", "Host: gate", "Content-Length: 0", *lines, "", "")
        return await send_request(self.address, "\r\n".join(head).encode())

    async def log_in(self, **fields: Any) -> str:
        """Return the token of a session that is a minute old."""
        token, _ = await self.admin.create(**fields)
        self.admin.clock.advance(60)
        return token

    async def is_active(self, token: str) -> bool:
        reply = await self.admin.call("POST", "/oauth2/introspect", data={"token": token})
        return bool(reply.body["active"])


class NoBindingEvents:
    """Drops what is counted."""

    def binding_mismatch(self, signal: str, policy: str) -> None: ...

    def binding_revocation(self, outcome: str) -> None: ...


@asynccontextmanager
async def open_site(directory: Path, *, fast_path: bool = True) -> AsyncIterator[Site]:
    async with open_admin(directory) as admin:
        admin.rules.current = replace(
            admin.rules.current, binding_policies={Signal.USER_AGENT: BindingPolicy.DENY}
        )
        binding = ClientBinding(admin.rules, events=NoBindingEvents(), revoke=lambda _: None)
        actions = SessionActions(
            admin.rotation, admin.sessions, rules=admin.rules, clock=admin.clock, binding=binding
        )
        sources = CredentialSources(header=b"x-session", basic=True)
        policy = GatewayPolicy(sources=sources, signals=SignalSources(enabled={Signal.USER_AGENT}))
        handlers = [OwnSession(PATH, policy, validator=admin.validator, actions=actions)]
        peers = TrustedPeers([ip_network("127.0.0.0/8")], on_refused=lambda: None)
        fast = FastPath(handlers, is_trusted=peers.is_trusted, clock=SystemClock())
        listener = Listener(
            "gate",
            build_gate_handler(handlers, peers),
            on_bad_request=lambda: None,
            fast_path=fast if fast_path else None,
            peers=peers,
        )
        yield Site(admin, await listener.open(Address("127.0.0.1", 0)))
        await listener.close(drain_timeout=1)


@pytest.fixture(params=[True, False], ids=["fast", "aiohttp"])
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with open_site(tmp_path, fast_path=request.param) as site:
        yield site


def cookie(token: str) -> str:
    return f"Cookie: theme=dark; __Host-session={token}"


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def read_cookie(response: RawResponse) -> str:
    """Return the token in the cookie that a response sets."""
    value = response.get_one("Set-Cookie")
    match = re.fullmatch(
        r"__Host-session=(\w[\w-]*); Path=/; Max-Age=\d+; Secure; HttpOnly; SameSite=Lax", value
    )
    assert match, value
    return match[1]


# --- Another token


async def test_browser_gets_another_token_as_its_cookie_and_not_in_the_body(site: Site) -> None:
    token = await site.log_in()
    response = await site.send("POST", cookie(token), SAME_ORIGIN)
    assert response.status == 200
    successor = read_cookie(response)
    assert successor != token
    assert await site.is_active(successor)
    assert json.loads(response.body).keys() == {"type", "ends_at", "idle_at", "refresh_after"}
    assert response.get_one("Cache-Control") == "no-store"


async def test_other_client_gets_another_token_in_the_body_and_no_cookie(site: Site) -> None:
    token = await site.log_in()
    response = await site.send("POST", bearer(token))
    assert response.status == 200
    assert response.get_all("Set-Cookie") == []
    assert await site.is_active(json.loads(response.body)["token"])


async def test_token_that_is_new_is_kept(site: Site) -> None:
    token = await site.log_in()
    successor = read_cookie(await site.send("POST", cookie(token), SAME_ORIGIN))
    site.admin.clock.advance(9)
    again = await site.send("POST", cookie(successor), SAME_ORIGIN)
    assert (again.status, again.get_all("Set-Cookie")) == (200, [])
    site.admin.clock.advance(1)
    assert read_cookie(await site.send("POST", cookie(successor), SAME_ORIGIN)) != successor


async def test_token_of_a_new_session_is_kept(site: Site) -> None:
    token, _ = await site.admin.create()
    response = await site.send("POST", cookie(token), SAME_ORIGIN)
    assert (response.status, response.get_all("Set-Cookie")) == (200, [])


async def test_two_tabs_get_the_same_token(site: Site) -> None:
    token = await site.log_in()
    one = read_cookie(await site.send("POST", cookie(token), SAME_ORIGIN))
    other = read_cookie(await site.send("POST", cookie(token), SAME_ORIGIN))
    assert one == other


async def test_junk_cookie_beside_ours_does_not_matter(site: Site) -> None:
    token = await site.log_in()
    stale = await site.log_in(user_id="bob")
    await site.send("DELETE", cookie(stale), SAME_ORIGIN)
    two = f"Cookie: __Host-session={stale}; __Host-session={token}"
    assert await site.is_active(read_cookie(await site.send("POST", two, SAME_ORIGIN)))


async def test_another_client_gets_no_token_of_a_bound_session(site: Site) -> None:
    firefox, chrome = ("Mozilla/5.0 Firefox/128.0", "Mozilla/5.0 Chrome/126.0.0.0 Safari/537.36")
    token = await site.log_in(binding={"user_agent": firefox})
    thief = await site.send("POST", cookie(token), SAME_ORIGIN, f"User-Agent: {chrome}")
    assert thief.status == 401
    assert thief.get_all("Set-Cookie") == []
    own = await site.send("POST", cookie(token), SAME_ORIGIN, f"User-Agent: {firefox}")
    assert read_cookie(own) != token


@pytest.mark.parametrize("credential", ["", bearer("x"), bearer("sgw_" + "A" * 56)])
async def test_no_session_gets_no_token(site: Site, credential: str) -> None:
    lines = [SAME_ORIGIN, *([credential] if credential else [])]
    assert (await site.send("POST", *lines)).status == 401


async def test_session_over_the_identity_limit_keeps_its_token(site: Site) -> None:
    token = await site.log_in(scopes=["x" * 500])
    site.admin.set_max_identity(100)
    response = await site.send("POST", cookie(token), SAME_ORIGIN)
    assert response.status == 409
    assert await site.is_active(token)


# --- Sign out


@pytest.mark.parametrize("credential", [cookie, bearer])
async def test_sign_out_ends_the_session_and_removes_the_cookie(
    site: Site, credential: Any
) -> None:
    token = await site.log_in()
    response = await site.send("DELETE", credential(token), SAME_ORIGIN)
    assert response.status == 200
    assert json.loads(response.body) == {"signed_out": True}
    assert response.get_one("Set-Cookie").startswith("__Host-session=; Path=/; Max-Age=0; ")
    assert not await site.is_active(token)
    [event, *_] = (await site.admin.call("GET", "/v1/audit")).body["events"]
    assert (event["action"], event["by"], event["reason"]) == ("revoke", "user", "signed_out")


async def test_sign_out_without_a_session_removes_the_cookie_too(site: Site) -> None:
    token = await site.log_in()
    await site.send("DELETE", cookie(token), SAME_ORIGIN)
    for lines in ([cookie(token)], []):
        again = await site.send("DELETE", *lines, SAME_ORIGIN)
        assert again.status == 200
        assert again.get_one("Set-Cookie").startswith("__Host-session=; ")


async def test_sign_out_ends_neither_of_two_sessions(site: Site) -> None:
    one, other = await site.log_in(), await site.log_in(user_id="bob")
    response = await site.send("DELETE", cookie(one), bearer(other))
    assert response.status == 401
    assert response.get_all("Set-Cookie") == []
    assert await site.is_active(one)
    assert await site.is_active(other)


@pytest.mark.parametrize("method", CHANGES)
async def test_outage_is_503_and_keeps_the_cookie(site: Site, method: str) -> None:
    token = await site.log_in()
    site.admin.store.break_store()
    response = await site.send(method, cookie(token), SAME_ORIGIN)
    assert (response.status, response.get_all("Set-Cookie")) == (503, [])
    assert response.get_one("Retry-After") == "1"


async def test_pending_sign_out_is_a_sign_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def revoke(*_: object, **__: object) -> None:
        raise RevocationPending

    token = await site.log_in()
    monkeypatch.setattr(site.admin.sessions, "revoke", revoke)
    assert (await site.send("DELETE", cookie(token), SAME_ORIGIN)).status == 200


# --- Other sites


FORWARDED = "X-Forwarded-Host: app.example"


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site"],
        ["Sec-Fetch-Site: none"],
        ["Sec-Fetch-Site: "],
        ["Sec-Fetch-Site: Same-Origin"],
        [SAME_ORIGIN, "Sec-Fetch-Site: cross-site"],
        [SAME_ORIGIN, SAME_ORIGIN],
        ["Sec-Fetch-Site: cross-site", "Origin: https://app.example", FORWARDED],
        ["Origin: https://app.example"],
        [FORWARDED],
        ["Origin: https://evil.example", FORWARDED],
        ["Origin: https://evil.app.example", FORWARDED],
        ["Origin: https://app.example.evil", FORWARDED],
        ["Origin: https://app.example@evil.example", FORWARDED],
        ["Origin: https://app.example:8443", FORWARDED],
        ["Origin: null", "X-Forwarded-Host: "],
        ["Origin: null", FORWARDED],
        ["Origin: https://[", FORWARDED],
        ["Origin: file://app.example", FORWARDED],
        ["Origin: https://app.example", "Origin: https://evil.example", FORWARDED],
        ["Origin: https://evil.example", FORWARDED, "X-Forwarded-Host: evil.example"],
    ],
)
async def test_change_by_cookie_from_elsewhere_is_refused(
    site: Site, method: str, lines: list[str]
) -> None:
    token = await site.log_in()
    response = await site.send(method, cookie(token), *lines)
    assert (response.status, response.get_all("Set-Cookie")) == (403, [])
    assert await site.is_active(token)


@pytest.mark.parametrize(
    "lines",
    [
        [SAME_ORIGIN],
        [SAME_ORIGIN, "Origin: null"],
        ["Origin: https://app.example", FORWARDED],
        ["Origin: https://APP.example", "X-Forwarded-Host: app.example:443"],
        ["Origin: http://app.example:80", FORWARDED],
        ["Origin: https://app.example:8443", "X-Forwarded-Host: app.example:8443"],
    ],
)
async def test_change_by_cookie_from_the_same_origin_is_made(site: Site, lines: list[str]) -> None:
    token = await site.log_in()
    assert (await site.send("DELETE", cookie(token), *lines)).status == 200
    assert not await site.is_active(token)


async def test_cookie_with_another_authorization_is_checked_as_a_cookie(site: Site) -> None:
    token = await site.log_in()
    for other in ("Basic YTpi", "Bearer not.ours.at-all"):
        response = await site.send("DELETE", cookie(token), f"Authorization: {other}")
        assert response.status == 403
    assert await site.is_active(token)


async def test_basic_password_is_sent_by_browsers_too(site: Site) -> None:
    token = await site.log_in()
    basic = f"Authorization: Basic {b64encode(f'x:{token}'.encode()).decode()}"
    assert (await site.send("DELETE", basic)).status == 403
    assert await site.is_active(token)
    assert (await site.send("DELETE", basic, SAME_ORIGIN)).status == 200
    assert not await site.is_active(token)


async def test_header_of_the_settings_is_sent_by_scripts_only(site: Site) -> None:
    token = await site.log_in()
    assert (await site.send("DELETE", f"X-Session: {token}")).status == 200
    assert not await site.is_active(token)


# --- Methods


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_405(site: Site, method: str) -> None:
    token = await site.log_in()
    response = await site.send(method, cookie(token), SAME_ORIGIN)
    assert response.status == 405
    assert response.get_one("Allow") == "GET, HEAD, POST, DELETE"
    assert await site.is_active(token)


async def test_times_are_shown_to_any_page_that_has_the_cookie(site: Site) -> None:
    token = await site.log_in()
    response = await site.send("GET", cookie(token))
    assert response.status == 200
    assert json.loads(response.body)["type"] == "web"


async def test_nothing_is_activity(site: Site) -> None:
    token = await site.log_in()
    before = await read_session(site, token)
    site.admin.clock.advance(timedelta(minutes=5).total_seconds())
    await site.send("GET", cookie(token))
    assert await read_session(site, token) == before


async def read_session(site: Site, token: str) -> Session:
    found = await site.admin.validator.find(token)
    assert isinstance(found, Session)
    return found
