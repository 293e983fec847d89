"""A provider's keys: fetched when needed, believed for a while, asked for in no storm."""

import asyncio
import gzip
import json
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.core.errors import BadLogoutToken
from sidegate.web.oidc.jose import read_keys
from sidegate.web.oidc.keys import KeysUnavailable, ProviderKeys, Source, Unfetched
from sidegate.web.oidc.sources import LIMIT, by_discovery, discovered, from_file, from_url
from tests.support.certificate import certificate
from tests.support.clock import FakeClock
from tests.web.oidc.identity_provider import (
    IdentityProvider,
    Signer,
    identity_provider,
    private_key,
)
from tests.web.oidc.logout_rig import tokens_of

OLD, NEW = Signer.of("RS256", "old"), Signer.of("RS256", "new")
JWKS, CONFIGURATION = "/jwks", "/.well-known/openid-configuration"
PATIENCE = 10.0


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    async with identity_provider(OLD) as provider:
        yield provider


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def keys_of(source: Source, clock: FakeClock, **how: Any) -> ProviderKeys:
    usual: dict[str, Any] = {"provider": "idp", "algorithms": ["RS256"]}
    return ProviderKeys(source, clock=clock, **({**usual, "max_age": timedelta(hours=1)} | how))


async def finds(keys: ProviderKeys, kid: str) -> bool:
    return await keys.find(kid, "RS256") is not None


# --- When they are fetched


async def test_nothing_is_fetched_before_it_is_needed_nor_twice(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    keys = keys_of(from_url(idp.jwks_uri), clock)
    assert idp.asked == []
    for _ in range(3):
        assert await finds(keys, "old")
        clock.advance(60)
    assert idp.asked == [JWKS]


async def test_they_are_believed_for_their_time_and_no_longer(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    keys = keys_of(from_url(idp.jwks_uri), clock)
    await finds(keys, "old")
    idp.signers = [NEW]

    clock.advance(3600)
    assert await finds(keys, "old")
    clock.advance(1)

    assert not await finds(keys, "old")
    assert await finds(keys, "new")
    assert idp.asked == [JWKS, JWKS]


async def test_a_key_that_is_new_is_asked_for(idp: IdentityProvider, clock: FakeClock) -> None:
    tokens = tokens_of(idp, clock)
    await tokens.read(idp.logout_token(OLD))
    clock.advance(60)
    idp.signers = [OLD, NEW]

    await tokens.read(idp.logout_token(NEW))
    await tokens.read(idp.logout_token(OLD))

    assert idp.asked == [JWKS, JWKS]


async def test_a_key_that_is_withdrawn_is_believed_until_the_next_fetch(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    tokens = tokens_of(idp, clock)
    await tokens.read(idp.logout_token(OLD))
    idp.signers = [NEW]
    clock.advance(60)
    await tokens.read(idp.logout_token(NEW))

    with pytest.raises(BadLogoutToken, match="no such key"):
        await tokens.read(idp.logout_token(OLD))


async def test_a_storm_of_unknown_keys_is_one_fetch_a_minute(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    keys = keys_of(from_url(idp.jwks_uri), clock)
    await finds(keys, "old")
    clock.advance(1)

    for _ in range(100):
        with pytest.raises(KeysUnavailable) as caught:
            await finds(keys, "unknown")
        assert (caught.value.retry_after, caught.value.unasked) == (59, True)
        assert await finds(keys, "old")

    assert idp.asked == [JWKS]
    clock.advance(59)
    assert not await finds(keys, "unknown")
    assert idp.asked == [JWKS, JWKS]


async def test_an_unknown_key_is_a_no_when_the_provider_was_just_asked(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    assert not await finds(keys_of(from_url(idp.jwks_uri), clock), "unknown")
    assert idp.asked == [JWKS]


async def test_many_who_need_them_at_once_share_one_flight(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    keys = keys_of(from_url(idp.jwks_uri), clock)
    idp.open.clear()
    waiting = [asyncio.create_task(finds(keys, "old")) for _ in range(20)]
    async with asyncio.timeout(PATIENCE):
        await idp.called.wait()
    waiting[0].cancel()  # whoever leaves takes the flight along: the next one begins another
    idp.open.set()

    found = await asyncio.gather(*waiting, return_exceptions=True)

    assert found[1:] == [True] * 19
    assert len(idp.asked) <= 2


# --- When they cannot be had


async def test_a_fetch_that_fails_does_no_harm_while_those_there_are_fresh(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    keys = keys_of(from_url(idp.jwks_uri), clock)
    await finds(keys, "old")
    clock.advance(60)
    idp.faults[JWKS] = b"down"

    with pytest.raises(KeysUnavailable) as caught:
        await finds(keys, "new")

    assert not caught.value.unasked
    assert await finds(keys, "old")


async def test_when_those_there_are_old_nobody_knows(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    keys = keys_of(from_url(idp.jwks_uri), clock)
    await finds(keys, "old")
    idp.faults[JWKS] = b"down"
    clock.advance(3601)

    with pytest.raises(KeysUnavailable):
        await finds(keys, "old")


async def test_a_provider_that_fails_is_tried_again_after_a_while_and_not_at_once(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    keys = keys_of(from_url(idp.jwks_uri), clock)
    idp.faults[JWKS] = b"down"
    for _ in range(10):
        with pytest.raises(KeysUnavailable):
            await finds(keys, "old")
    assert idp.asked == [JWKS]

    idp.faults.clear()
    clock.advance(5)

    assert await finds(keys, "old")


async def test_a_provider_that_is_silent_is_given_up_on(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    idp.open.clear()

    with pytest.raises(KeysUnavailable):
        await finds(keys_of(from_url(idp.jwks_uri), clock, patience=0.05), "old")


async def test_a_provider_that_is_not_there_is_an_outage(clock: FakeClock) -> None:
    async with identity_provider(OLD) as gone:
        source = from_url(gone.jwks_uri)
    with pytest.raises(KeysUnavailable):
        await finds(keys_of(source, clock), "old")


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=404),
        web.Response(status=500),
        web.Response(status=204),
        web.Response(status=302, headers={"Location": "/other"}),
        web.Response(body=gzip.compress(b'{"keys": []}'), headers={"Content-Encoding": "gzip"}),
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b'{"keys": [], "keys": []}',
        b"\xff\xfe",
        b'{"keys": [' + b"[" * 10_000,
        b'{"keys": [' + b",".join([b'{"kty": "RSA"}'] * 101) + b"]}",
        b'{"keys": []}' + b" " * LIMIT,
    ],
    ids=lambda each: repr(each)[:40],
)
async def test_what_is_no_jwk_set_is_an_outage(
    idp: IdentityProvider, clock: FakeClock, answer: web.Response | bytes
) -> None:
    idp.faults[JWKS] = answer

    with pytest.raises(KeysUnavailable):
        await finds(keys_of(from_url(idp.jwks_uri), clock), "old")

    assert idp.asked == [JWKS]  # and no redirect was followed


async def test_why_they_cannot_be_had_is_logged(
    idp: IdentityProvider, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidegate")
    idp.faults[JWKS] = web.Response(status=404)
    with pytest.raises(KeysUnavailable):
        await finds(keys_of(from_url(idp.jwks_uri), clock), "old")

    (told,) = (vars(record) for record in caplog.records)
    assert (told["provider"], told["why"]) == ("idp", "the provider answers 404")


# --- Discovery


async def test_the_discovery_document_says_where_they_are(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    assert await finds(keys_of(by_discovery(idp.issuer), clock), "old")
    assert idp.asked == [CONFIGURATION, JWKS]


async def test_an_issuer_with_a_path_and_a_slash_is_asked_below_its_path(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    issuer = f"{idp.issuer}/realms/main/"
    idp.faults[f"/realms/main{CONFIGURATION}"] = json.dumps(
        {"issuer": issuer, "jwks_uri": idp.jwks_uri}
    ).encode()
    assert await finds(keys_of(by_discovery(issuer), clock), "old")


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://another.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": 1},
        {"jwks_uri": "http://keys.example/"},
        {"jwks_uri": "ftp://localhost/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "/jwks"},
        {"jwks_uri": "https://u:p@keys.example/"},
    ],
    ids=json.dumps,
)
async def test_a_discovery_document_that_leads_elsewhere_is_not_followed(
    idp: IdentityProvider, clock: FakeClock, document: dict[str, Any]
) -> None:
    idp.discovery = document
    with pytest.raises(KeysUnavailable):
        await finds(keys_of(by_discovery(idp.issuer), clock), "old")
    assert idp.asked == [CONFIGURATION]


def test_an_issuer_elsewhere_does_not_lead_to_a_port_of_this_machine() -> None:
    issuer, inside = "https://id.example", "http://localhost:6379/"

    with pytest.raises(Unfetched):
        discovered({"issuer": issuer, "jwks_uri": inside}, issuer)
    assert discovered({"issuer": "http://[::1]:1", "jwks_uri": inside}, "http://[::1]:1") == inside


@pytest.mark.parametrize("answer", [b"[]", b"{", web.Response(status=302), b"\0" * (LIMIT + 1)])
async def test_a_discovery_document_that_is_none_is_an_outage(
    idp: IdentityProvider, clock: FakeClock, answer: web.Response | bytes
) -> None:
    idp.faults[CONFIGURATION] = answer
    with pytest.raises(KeysUnavailable):
        await finds(keys_of(by_discovery(idp.issuer), clock), "old")
    assert idp.asked == [CONFIGURATION]


# --- Files, and certificates


async def test_a_file_is_read_again_when_a_key_is_unknown(
    idp: IdentityProvider, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(idp.jwks()))
    keys = keys_of(from_file(path), clock)
    assert await finds(keys, "old")

    idp.signers = [NEW]
    path.write_text(json.dumps(idp.jwks()))
    clock.advance(60)

    assert await finds(keys, "new")
    assert idp.asked == []


async def test_a_file_that_is_not_there_or_too_large_is_an_outage(
    clock: FakeClock, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(b'{"keys": []}' + b" " * LIMIT)
    for name in ("none", "large", "."):
        with pytest.raises(KeysUnavailable):
            await finds(keys_of(from_file(tmp_path / name), clock), "old")


async def test_a_provider_without_a_certificate_we_trust_is_not_believed(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate(tmp_path))
    async with identity_provider(OLD, ssl=tls) as idp:
        with pytest.raises(KeysUnavailable):
            await finds(keys_of(by_discovery(idp.issuer), clock), "old")
        assert idp.asked == []
    why = [vars(each).get("why", "") for each in caplog.records]
    assert "the provider cannot be reached: ClientConnectorCertificateError" in why


# --- What a key may be used for


def usable(jwk: dict[str, Any], *algorithms: str) -> list[str]:
    return [key.algorithm for key in read_keys({"keys": [jwk]}, algorithms)]


EVERY = ("RS256", "PS256", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def bare(signer: Signer, **more: object) -> dict[str, Any]:
    jwk = signer.jwk(**more)
    return {name: value for name, value in jwk.items() if name != "alg" or "alg" in more}


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (bare(OLD), ["RS256", "PS256", "PS512"]),
        (OLD.jwk(), ["RS256"]),
        (OLD.jwk(alg="RS512"), []),
        (OLD.jwk(use="enc"), []),
        (OLD.jwk(key_ops=["verify"]), ["RS256"]),
        (OLD.jwk(key_ops=["sign"]), []),
        (OLD.jwk(key_ops="verify"), []),
        (OLD.jwk(kid=7), []),
        (OLD.jwk(d="AQAB"), ["RS256"]),
        (OLD.jwk(e=None), []),
        (OLD.jwk(n=[]), []),
        (OLD.jwk(kty="EC"), []),
        (OLD.jwk(kty=["RSA"]), []),
        (bare(Signer("RS256", "short", private_key("RSA1024"))), []),
        (bare(Signer.of("ES256")), ["ES256"]),
        (bare(Signer.of("ES384")), ["ES384"]),
        (bare(Signer.of("ES512")), ["ES512"]),
        (bare(Signer.of("ES256"), crv="P-384"), []),
        (bare(Signer.of("ES256"), x="AA"), []),
        (bare(Signer.of("EdDSA")), ["EdDSA"]),
        (bare(Signer.of("EdDSA"), crv="X25519"), []),
        ({"kty": "oct", "k": "AAAA"}, []),
        ({}, []),
    ],
)
def test_a_key_is_used_for_what_it_is_for(jwk: dict[str, Any], algorithms: list[str]) -> None:
    assert usable(jwk, *EVERY) == algorithms


_anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_members = st.sampled_from(
    ["kty", "crv", "n", "e", "x", "y", "d", "k", "use", "key_ops", "alg", "kid", "x5c"]
)
_right = st.sampled_from([OLD.jwk(), Signer.of("ES256").jwk(), Signer.of("EdDSA").jwk()])


@settings(max_examples=300, deadline=None)
@given(
    right=_right,
    wrong=st.dictionaries(_members, _anything | st.lists(_anything, max_size=2), max_size=4),
    without=st.sets(_members, max_size=2),
)
def test_a_key_of_any_shape_is_taken_or_passed_over(
    right: dict[str, Any], wrong: dict[str, Any], without: set[str]
) -> None:
    jwk = {name: value for name, value in (right | wrong).items() if name not in without}

    assert set(usable(jwk, *EVERY)) <= set(EVERY)


def test_a_key_tells_neither_itself_nor_its_parts() -> None:
    (key,) = read_keys({"keys": [OLD.jwk()]}, ["RS256"])
    assert repr(key) == "Key(id='old', algorithm='RS256')"
