"""Back-channel logout at the door: who is let in, what is answered, and what is told to whom."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.admin.admin_listener import admin_door
from tests.web.oidc.identity_provider import IdentityProvider, Signer, claims, identity_provider
from tests.web.oidc.logout_rig import ALGORITHMS, PATH, Rig, logout_rig

RS256 = Signer.of("RS256")


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    async with identity_provider(*map(Signer.of, ALGORITHMS)) as provider:
        yield provider


@pytest.fixture
async def rig(tmp_path: Path, idp: IdentityProvider) -> AsyncIterator[Rig]:
    async with logout_rig(tmp_path, idp) as opened:
        yield opened


# --- What is obeyed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_providers_session_ends_and_nobody_elses(rig: Rig, algorithm: str) -> None:
    meant = await rig.begin()
    spared = [
        await rig.begin(provider_session_id="s2"),
        await rig.begin(provider="other"),
        await rig.begin(type="web", provider=None, provider_session_id=None),
    ]

    reply = await rig.post(rig.idp.logout_token(Signer.of(algorithm)))

    assert (reply.status, reply.text) == (200, "")
    assert reply.headers["Cache-Control"] == "no-store"
    assert not await rig.lives(meant)
    assert all([await rig.lives(each) for each in spared])
    assert rig.counted == [("idp", "ended")]


async def test_every_session_of_a_user_ends(rig: Rig) -> None:
    meant = [await rig.begin(provider_subject="u1", provider_session_id=s) for s in ("1", "2")]
    spared = await rig.begin(provider_subject="u2")

    reply = await rig.post(rig.idp.logout_token(sid=..., sub="u1"))

    assert reply.status == 200
    assert not any([await rig.lives(each) for each in meant])
    assert await rig.lives(spared)


async def test_the_end_is_the_providers_doing(rig: Rig) -> None:
    session_id = await rig.begin()

    await rig.post(rig.idp.logout_token())

    event = (await rig.door.call("GET", "/v1/audit?by=provider:idp")).body["events"][0]
    assert event["session_id"] == session_id
    assert (event["action"], event["reason"], event["from"]) == ("revoke", "logout", "127.0.0.1")


async def test_that_there_is_no_such_session_is_fine(rig: Rig) -> None:
    assert (await rig.post(rig.idp.logout_token())).status == 200
    assert rig.counted == [("idp", "nobody")]


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
async def test_a_header_may_say_more_than_is_asked(rig: Rig, header: dict[str, Any]) -> None:
    signed = RS256.sign(claims(rig.idp.issuer), RS256.header(**header))

    assert (await rig.post(signed)).status == 200


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
async def test_claims_may_say_it_in_other_ways(rig: Rig, changes: dict[str, Any]) -> None:
    assert (await rig.post(rig.idp.logout_token(**changes))).status == 200


async def test_a_key_without_an_id_is_enough_while_it_is_the_only_one(
    tmp_path: Path, idp: IdentityProvider
) -> None:
    idp.signers = []
    idp.more_keys = [{k: v for k, v in RS256.jwk().items() if k not in ("kid", "use", "alg")}]
    header = {"alg": "RS256", "typ": "logout+jwt"}
    async with logout_rig(tmp_path, idp) as rig:
        signed = RS256.sign(claims(idp.issuer), header)
        assert (await rig.post(signed)).status == 200


@pytest.mark.parametrize("typ", ["JWT", "application/jwt", "logout+jwt", None])
async def test_a_provider_that_gives_no_type_is_obeyed_if_the_operator_allows_it(
    tmp_path: Path, idp: IdentityProvider, typ: str | None
) -> None:
    header = RS256.header() | {"typ": typ} if typ else {"alg": "RS256", "kid": RS256.kid}
    async with logout_rig(tmp_path, idp, require_typ=False) as rig:
        assert (await rig.post(RS256.sign(claims(idp.issuer), header))).status == 200


async def test_unknown_fields_of_the_form_are_let_go(rig: Rig) -> None:
    data = {"logout_token": rig.idp.logout_token(), "tenant": "a", "state": ""}
    assert (await rig.door.call("POST", PATH, key=None, data=data)).status == 200


async def test_an_api_key_neither_helps_nor_hurts(rig: Rig) -> None:
    for key in ("read", "all"):
        data = {"logout_token": rig.idp.logout_token()}
        assert (await rig.door.call("POST", PATH, key=key, data=data)).status == 200


# --- Once


async def test_a_logout_token_is_obeyed_once_on_whichever_instance(
    tmp_path: Path, idp: IdentityProvider
) -> None:
    logout_token = idp.logout_token()
    async with logout_rig(tmp_path, idp) as here, logout_rig(tmp_path, idp) as there:
        first = await here.post(logout_token)
        since = await here.begin()
        again = [await here.post(logout_token), await there.post(logout_token)]

        assert first.status == 200
        assert [reply.status for reply in again] == [400, 400]
        assert again[1].body == {
            "error": "invalid_request",
            "error_description": "it was obeyed before",
        }
        assert there.counted == [("idp", "replayed")]
        assert await here.lives(since)


async def test_two_tokens_of_one_jti_are_one(rig: Rig) -> None:
    await rig.post(rig.idp.logout_token(jti="same", sid="s1"))
    again = await rig.post(rig.idp.logout_token(Signer.of("ES256"), jti="same", sid="s2"))
    assert again.status == 400


# --- Who is let in


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
async def test_a_stranger_is_let_in_at_that_path_alone(
    rig: Rig, method: str, path: str, status: int
) -> None:
    data = {"logout_token": "x"} if method == "POST" else None
    assert (await rig.door.call(method, path, key=None, data=data)).status == status


async def test_without_a_provider_there_is_no_such_route(tmp_path: Path) -> None:
    async with admin_door(tmp_path) as door:
        stranger = await door.call("POST", PATH, key=None, data={"logout_token": "x"})
        caller = await door.call("POST", PATH, data={"logout_token": "x"})
    assert (stranger.status, caller.status) == (401, 404)


def test_without_a_provider_nobody_loads_what_verifies_signatures() -> None:
    modules = "{'jwt', 'cryptography.hazmat'}"
    probe = f"import sys, sidegate.runtime.server; print({modules} & {{*sys.modules}})"
    told = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout
    assert told == "set()\n"


async def test_an_unknown_provider_is_not_found(rig: Rig) -> None:
    reply = await rig.post(rig.idp.logout_token(), path="/oidc/backchannel-logout/IDP")
    assert reply.status == 404
    assert reply.headers["Cache-Control"] == "no-store"
    assert rig.counted == []


async def test_the_host_is_checked_here_too(rig: Rig) -> None:
    reply = await rig.post(rig.idp.logout_token(), headers=[("Host", "evil.example")])
    assert reply.status == 403


# --- What the form must be


@pytest.mark.parametrize(
    ("body", "kind", "status"),
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
async def test_a_form_that_is_none_is_refused(
    rig: Rig, body: bytes, kind: str, status: int
) -> None:
    reply = await rig.door.call("POST", PATH, key=None, data=body, headers=[("Content-Type", kind)])

    assert reply.status == status
    assert reply.body["error"] == "invalid_request"
    assert rig.counted == [("idp", "invalid")]


async def test_a_token_in_the_query_is_not_read(rig: Rig) -> None:
    path = f"{PATH}?logout_token={rig.idp.logout_token()}"
    reply = await rig.door.call("POST", path, key=None, data={"x": "y"})
    assert reply.status == 400


# --- Outages


async def test_a_provider_whose_keys_cannot_be_had_is_told_to_come_again(rig: Rig) -> None:
    session_id = await rig.begin()
    logout_token = rig.idp.logout_token()
    rig.idp.faults["/jwks"] = b"down"

    down = await rig.post(logout_token)
    still = await rig.post(logout_token)
    rig.idp.faults.clear()
    rig.door.clock.advance(5)
    up = await rig.post(logout_token)

    assert [reply.status for reply in (down, still, up)] == [503, 503, 200]
    assert (down.body["code"], down.body["error"]) == (
        "keys_unavailable",
        "temporarily_unavailable",
    )
    assert down.headers["Retry-After"] == "5"
    assert down.headers["Cache-Control"] == "no-store"
    assert rig.counted == [("idp", "unavailable"), ("idp", "unavailable"), ("idp", "ended")]
    assert not await rig.lives(session_id)


async def test_a_store_that_is_away_is_no_refusal(rig: Rig) -> None:
    logout_token = rig.idp.logout_token()
    rig.door.store.breaks()
    away = await rig.post(logout_token)
    rig.door.store.failure = None

    assert away.status == 503
    assert rig.counted == [("idp", "unavailable")]
    assert (await rig.post(logout_token)).status == 200


async def test_a_store_that_is_silent_is_given_up_on(tmp_path: Path, idp: IdentityProvider) -> None:
    async with logout_rig(tmp_path, idp, patience=0.2) as rig:
        rig.door.store.silent = True
        reply = await rig.post(idp.logout_token())
    assert reply.status == 503
    assert rig.counted == [("idp", "unavailable")]


async def test_forged_tokens_ask_no_store(rig: Rig) -> None:
    rig.door.store.breaks()
    assert (await rig.post(rig.idp.logout_token(Signer.of("RS256", "mine")))).status == 400


async def test_many_at_once_fetch_the_keys_once(rig: Rig) -> None:
    replies = await asyncio.gather(*(rig.post(rig.idp.logout_token()) for _ in range(20)))
    assert {reply.status for reply in replies} == {200}
    assert rig.idp.asked == ["/jwks"]


# --- What is told


async def test_a_logout_is_logged_without_its_token(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "sidegate")
    await rig.begin(provider_subject="who-it-is")
    good = rig.idp.logout_token(sub="who-it-is", jti="which-one-it-was")
    bad = rig.idp.logout_token(iss="https://another.example")

    answers = [await rig.post(good), await rig.post(good), await rig.post(bad)]

    told = [{**vars(record), "event": record.getMessage()} for record in caplog.records]
    changes = [each for each in told if each.get("action") == "provider.logout"]
    refused = [each for each in told if each["event"] == "logout refused"]
    assert [(each["actor"], each["revoked"]) for each in changes] == [("provider:idp", 1)]
    assert [(each["provider"], each["why"]) for each in refused] == [
        ("idp", "it was obeyed before"),
        ("idp", "iss is not the provider's issuer"),
    ]
    everything = repr(told) + "".join(each.text for each in answers)
    parts = {part for token in (good, bad) for part in token.split(".")[1:]}
    for secret in (*parts, "who-it-is", "which-one-it-was", "another.example"):
        assert secret not in everything


async def test_the_metric_has_the_template_of_the_route(rig: Rig) -> None:
    await rig.post("x")
    assert rig.door.counted[-1] == ("/oidc/backchannel-logout/{provider}", "POST", 400)
