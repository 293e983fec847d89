"""Back-channel logout at the admin listener: responses, access, outcomes and log lines."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.admin.admin_listener import open_admin
from tests.web.oidc.identity_provider import (
    IdentityProvider,
    Signer,
    identity_provider,
    logout_claims,
)
from tests.web.oidc.logout_harness import ALGORITHMS, PATH, LogoutHarness, open_logout_harness

RS256 = Signer.of("RS256")


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    async with identity_provider(*map(Signer.of, ALGORITHMS)) as provider:
        yield provider


@pytest.fixture
async def harness(tmp_path: Path, idp: IdentityProvider) -> AsyncIterator[LogoutHarness]:
    async with open_logout_harness(tmp_path, idp) as opened:
        yield opened


# --- Accepted logout tokens


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_logout_by_sid_ends_only_that_provider_session(
    harness: LogoutHarness, algorithm: str
) -> None:
    matching = await harness.create_session()
    others = [
        await harness.create_session(provider_session_id="s2"),
        await harness.create_session(provider="other"),
        await harness.create_session(type="web", provider=None, provider_session_id=None),
    ]

    reply = await harness.post(harness.idp.logout_token(Signer.of(algorithm)))

    assert (reply.status, reply.text) == (200, "")
    assert reply.headers["Cache-Control"] == "no-store"
    assert not await harness.is_active(matching)
    assert all([await harness.is_active(other) for other in others])
    assert harness.outcomes == [("idp", "ended")]


async def test_logout_by_sub_ends_every_session_of_the_user(harness: LogoutHarness) -> None:
    matching = [
        await harness.create_session(provider_subject="u1", provider_session_id=s)
        for s in ("1", "2")
    ]
    other = await harness.create_session(provider_subject="u2")

    reply = await harness.post(harness.idp.logout_token(sid=..., sub="u1"))

    assert reply.status == 200
    assert not any([await harness.is_active(each) for each in matching])
    assert await harness.is_active(other)


async def test_logout_is_audited_with_the_provider_as_actor(harness: LogoutHarness) -> None:
    session_id = await harness.create_session()

    await harness.post(harness.idp.logout_token())

    event = (await harness.admin.call("GET", "/v1/audit?by=provider:idp")).body["events"][0]
    assert event["session_id"] == session_id
    assert (event["action"], event["reason"], event["from"]) == ("revoke", "logout", "127.0.0.1")


async def test_logout_without_a_matching_session_succeeds(harness: LogoutHarness) -> None:
    assert (await harness.post(harness.idp.logout_token())).status == 200
    assert harness.outcomes == [("idp", "no_session")]


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "application/logout+jwt"},
        {"typ": "Logout+JWT"},
        {"typ": "APPLICATION/LOGOUT+JWT"},
        {"x5t": "abc", "x5t#S256": "def", "cty": "json", "unknown": {"a": [1]}},
        {"jku": "https://elsewhere.example/keys"},
    ],
    ids=json.dumps,
)
async def test_additional_header_members_are_accepted(
    harness: LogoutHarness, header: dict[str, Any]
) -> None:
    signed = RS256.sign(logout_claims(harness.idp.issuer), RS256.header(**header))

    assert (await harness.post(signed)).status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["another", "shop"]},
        {"iat": 1_772_625_600.25, "exp": 1_772_625_720.75},
        {"iat": 1_772_625_600 - 299},
        {"iat": 1_772_625_600 + 29},
        {"exp": 1_772_625_600 - 29},
        {"exp": 2**52},
        {"nbf": 1_772_625_600},
        {"sub": "u1"},
        {"sub": "ü 1"},
        {"sid": "x" * 512},
        {"jti": "x" * 512},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {"more": 1}}},
        {"trace_id": "1", "azp": 7, "sids": ["s1"]},
    ],
    ids=str,
)
async def test_valid_variants_of_claims_are_accepted(
    harness: LogoutHarness, changes: dict[str, Any]
) -> None:
    assert (await harness.post(harness.idp.logout_token(**changes))).status == 200


async def test_token_without_kid_is_accepted_with_a_single_key(
    tmp_path: Path, idp: IdentityProvider
) -> None:
    idp.signers = []
    idp.more_keys = [{k: v for k, v in RS256.jwk().items() if k not in ("kid", "use", "alg")}]
    header = {"alg": "RS256", "typ": "logout+jwt"}
    async with open_logout_harness(tmp_path, idp) as harness:
        signed = RS256.sign(logout_claims(idp.issuer), header)
        assert (await harness.post(signed)).status == 200


@pytest.mark.parametrize("typ", ["JWT", "application/jwt", "logout+jwt", None])
async def test_typ_is_optional_without_require_typ(
    tmp_path: Path, idp: IdentityProvider, typ: str | None
) -> None:
    header = RS256.header() | {"typ": typ} if typ else {"alg": "RS256", "kid": RS256.kid}
    async with open_logout_harness(tmp_path, idp, require_typ=False) as harness:
        assert (await harness.post(RS256.sign(logout_claims(idp.issuer), header))).status == 200


async def test_unknown_form_fields_are_ignored(harness: LogoutHarness) -> None:
    data = {"logout_token": harness.idp.logout_token(), "tenant": "a", "state": ""}
    assert (await harness.admin.call("POST", PATH, key=None, data=data)).status == 200


async def test_api_key_is_ignored(harness: LogoutHarness) -> None:
    for key in ("read", "all"):
        data = {"logout_token": harness.idp.logout_token()}
        assert (await harness.admin.call("POST", PATH, key=key, data=data)).status == 200


# --- Replays


async def test_logout_token_is_processed_once_across_instances(
    tmp_path: Path, idp: IdentityProvider
) -> None:
    logout_token = idp.logout_token()
    async with (
        open_logout_harness(tmp_path, idp) as one,
        open_logout_harness(tmp_path, idp) as other,
    ):
        first = await one.post(logout_token)
        later_session = await one.create_session()
        replies = [await one.post(logout_token), await other.post(logout_token)]

        assert first.status == 200
        assert [reply.status for reply in replies] == [400, 400]
        assert replies[1].body == {
            "error": "invalid_request",
            "error_description": "it was processed before",
        }
        assert other.outcomes == [("idp", "replayed")]
        assert await one.is_active(later_session)


async def test_second_token_with_the_same_jti_is_refused(harness: LogoutHarness) -> None:
    await harness.post(harness.idp.logout_token(jti="same", sid="s1"))
    again = await harness.post(harness.idp.logout_token(Signer.of("ES256"), jti="same", sid="s2"))
    assert again.status == 400


# --- Access


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH, 405),
        ("POST", "/oidc/backchannel-logout/", 401),
        ("POST", "/oidc/backchannel-logout", 401),
        ("POST", f"{PATH}/", 401),
        ("POST", f"{PATH}/x", 401),
        ("POST", "/oidc/backchannel-logout/idp%2Fx", 404),
        ("POST", "/oidc//backchannel-logout/idp", 401),
        ("POST", "/oidc/backchannel-logout/idp/../../../v1/revoke", 401),
        ("POST", "/oidc/backchannel-logout/..", 404),
        ("POST", "/oidc/other", 401),
        ("POST", "/v1/revoke", 401),
        ("GET", "/v1/sessions", 401),
        ("GET", "/", 401),
    ],
)
async def test_only_the_logout_path_needs_no_key(
    harness: LogoutHarness, method: str, path: str, status: int
) -> None:
    data = {"logout_token": "x"} if method == "POST" else None
    assert (await harness.admin.call(method, path, key=None, data=data)).status == status


async def test_route_is_404_without_providers(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        without_key = await admin.call("POST", PATH, key=None, data={"logout_token": "x"})
        with_key = await admin.call("POST", PATH, data={"logout_token": "x"})
    assert (without_key.status, with_key.status) == (401, 404)


def test_signature_libraries_are_not_imported_at_startup() -> None:
    modules = "{'jwt', 'cryptography.hazmat'}"
    probe = f"import sys, sidegate.runtime.server; print({modules} & {{*sys.modules}})"
    output = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout
    assert output == "set()\n"


async def test_unknown_provider_is_404(harness: LogoutHarness) -> None:
    reply = await harness.post(harness.idp.logout_token(), path="/oidc/backchannel-logout/IDP")
    assert reply.status == 404
    assert reply.headers["Cache-Control"] == "no-store"
    assert harness.outcomes == []


async def test_host_is_checked(harness: LogoutHarness) -> None:
    reply = await harness.post(harness.idp.logout_token(), headers=[("Host", "evil.example")])
    assert reply.status == 403


# --- The form


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"", "application/x-www-form-urlencoded", 400),
        (b"logout_token=", "application/x-www-form-urlencoded", 400),
        (b"token=x", "application/x-www-form-urlencoded", 400),
        (b"logout_token=x&logout_token=x", "application/x-www-form-urlencoded", 400),
        (b"logout_token=%ff", "application/x-www-form-urlencoded", 400),
        (b'{"logout_token": "x"}', "application/json", 415),
        (b"logout_token=x", "text/plain", 415),
        (b"logout_token=" + b"x" * 65_536, "application/x-www-form-urlencoded", 413),
    ],
    ids=lambda each: each[:30] if isinstance(each, bytes) else str(each),
)
async def test_malformed_form_is_refused(
    harness: LogoutHarness, body: bytes, media_type: str, status: int
) -> None:
    reply = await harness.admin.call(
        "POST", PATH, key=None, data=body, headers=[("Content-Type", media_type)]
    )

    assert reply.status == status
    assert reply.body["error"] == "invalid_request"
    assert harness.outcomes == [("idp", "invalid")]


async def test_token_in_the_query_is_ignored(harness: LogoutHarness) -> None:
    path = f"{PATH}?logout_token={harness.idp.logout_token()}"
    reply = await harness.admin.call("POST", path, key=None, data={"x": "y"})
    assert reply.status == 400


# --- Outages


async def test_unavailable_keys_are_503_with_retry_after(harness: LogoutHarness) -> None:
    session_id = await harness.create_session()
    logout_token = harness.idp.logout_token()
    harness.idp.faults["/jwks"] = b"down"

    failed = await harness.post(logout_token)
    repeated = await harness.post(logout_token)
    harness.idp.faults.clear()
    harness.admin.clock.advance(5)
    recovered = await harness.post(logout_token)

    assert [reply.status for reply in (failed, repeated, recovered)] == [503, 503, 200]
    assert (failed.body["code"], failed.body["error"]) == (
        "keys_unavailable",
        "temporarily_unavailable",
    )
    assert failed.headers["Retry-After"] == "5"
    assert failed.headers["Cache-Control"] == "no-store"
    assert harness.outcomes == [("idp", "unavailable"), ("idp", "unavailable"), ("idp", "ended")]
    assert not await harness.is_active(session_id)


async def test_store_outage_is_503(harness: LogoutHarness) -> None:
    logout_token = harness.idp.logout_token()
    harness.admin.store.break_store()
    failed = await harness.post(logout_token)
    harness.admin.store.failure = None

    assert failed.status == 503
    assert harness.outcomes == [("idp", "unavailable")]
    assert (await harness.post(logout_token)).status == 200


async def test_hanging_store_is_503(tmp_path: Path, idp: IdentityProvider) -> None:
    async with open_logout_harness(tmp_path, idp, request_timeout=0.2) as harness:
        harness.admin.store.hanging = True
        reply = await harness.post(idp.logout_token())
    assert reply.status == 503
    assert harness.outcomes == [("idp", "unavailable")]


async def test_forged_token_causes_no_store_request(harness: LogoutHarness) -> None:
    harness.admin.store.break_store()
    assert (await harness.post(harness.idp.logout_token(Signer.of("RS256", "mine")))).status == 400


async def test_concurrent_logouts_fetch_the_keys_once(harness: LogoutHarness) -> None:
    replies = await asyncio.gather(*(harness.post(harness.idp.logout_token()) for _ in range(20)))
    assert {reply.status for reply in replies} == {200}
    assert harness.idp.requested_paths == ["/jwks"]


# --- Log and metrics


async def test_logout_is_logged_without_its_token(
    harness: LogoutHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "sidegate")
    await harness.create_session(provider_subject="the-subject")
    good = harness.idp.logout_token(sub="the-subject", jti="the-jti")
    bad = harness.idp.logout_token(iss="https://another.example")

    replies = [await harness.post(good), await harness.post(good), await harness.post(bad)]

    lines = [{**vars(record), "event": record.getMessage()} for record in caplog.records]
    logouts = [each for each in lines if each.get("action") == "provider.logout"]
    refused = [each for each in lines if each["event"] == "logout refused"]
    assert [(each["actor"], each["revoked"]) for each in logouts] == [("provider:idp", 1)]
    assert [(each["provider"], each["reason"]) for each in refused] == [
        ("idp", "it was processed before"),
        ("idp", "iss is not the provider's issuer"),
    ]
    everything = repr(lines) + "".join(reply.text for reply in replies)
    parts = {part for token in (good, bad) for part in token.split(".")[1:]}
    for secret in (*parts, "the-subject", "the-jti", "another.example"):
        assert secret not in everything


async def test_request_is_counted_by_route_template(harness: LogoutHarness) -> None:
    await harness.post("x")
    assert harness.admin.requests[-1] == ("/oidc/backchannel-logout/{provider}", "POST", 400)
