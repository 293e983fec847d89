"""The cache of a provider's keys, its sources, and the selection of keys by algorithm."""

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
from sidegate.web.oidc.jose import parse_jwk_set
from sidegate.web.oidc.keys import FetchFailed, JwksSource, KeysUnavailable, ProviderKeys
from sidegate.web.oidc.sources import (
    MAX_SIZE,
    discovery_source,
    file_source,
    find_jwks_uri,
    url_source,
)
from tests.support.certificate import write_certificate
from tests.support.clock import FakeClock
from tests.web.oidc.identity_provider import (
    IdentityProvider,
    Signer,
    identity_provider,
    private_key,
)
from tests.web.oidc.logout_harness import build_token_reader

OLD, NEW = Signer.of("RS256", "old"), Signer.of("RS256", "new")
JWKS, CONFIGURATION = "/jwks", "/.well-known/openid-configuration"
TIMEOUT = 10.0


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    async with identity_provider(OLD) as provider:
        yield provider


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def build_keys(source: JwksSource, clock: FakeClock, **changes: Any) -> ProviderKeys:
    options: dict[str, Any] = {
        "provider": "idp",
        "algorithms": ["RS256"],
        "max_age": timedelta(hours=1),
    }
    return ProviderKeys(source, clock=clock, **(options | changes))


async def has_key(keys: ProviderKeys, kid: str) -> bool:
    return await keys.find(kid, "RS256") is not None


async def look_up(keys: ProviderKeys, kid: str) -> str:
    try:
        return "found" if await has_key(keys, kid) else "missing"
    except KeysUnavailable as error:
        cause = "rate limited" if error.rate_limited else "failed"
        return f"{cause}, retry after {error.retry_after:g} s"


# --- When keys are fetched

# Steps on a provider with the key `old`: what happens, and what a lookup returns.
CACHING: dict[str, list[tuple[Any, ...]]] = {
    "nothing is fetched before the first lookup": [("requests", 0)],
    "keys are cached": [
        *[("find", "old", "found"), ("advance", 60)] * 3,
        ("requests", 1),
    ],
    "keys are fetched again after max_age": [
        ("find", "old", "found"),
        ("publish", NEW),
        ("advance", 3600),
        ("find", "old", "found"),
        ("advance", 1),
        ("find", "old", "missing"),
        ("find", "new", "found"),
        ("requests", 2),
    ],
    "unknown keys cause one fetch a minute": [
        ("find", "old", "found"),
        ("advance", 1),
        *[("find", "unknown", "rate limited, retry after 59 s"), ("find", "old", "found")] * 100,
        ("requests", 1),
        ("advance", 59),
        ("find", "unknown", "missing"),
        ("requests", 2),
    ],
    "a key absent from a new fetch is missing": [
        ("find", "unknown", "missing"),
        ("requests", 1),
    ],
    "a failed fetch does not drop fresh keys": [
        ("find", "old", "found"),
        ("advance", 60),
        ("fail",),
        ("find", "new", "failed, retry after 5 s"),
        ("find", "old", "found"),
    ],
    "a failed fetch makes expired keys unavailable": [
        ("find", "old", "found"),
        ("fail",),
        ("advance", 3601),
        ("find", "old", "failed, retry after 5 s"),
    ],
    "a failed fetch is retried after a delay": [
        ("fail",),
        *[("find", "old", "failed, retry after 5 s")] * 10,
        ("requests", 1),
        ("recover",),
        ("advance", 5),
        ("find", "old", "found"),
    ],
}


@pytest.mark.parametrize("steps", CACHING.values(), ids=CACHING.keys())
async def test_keys_are_cached(
    idp: IdentityProvider, clock: FakeClock, steps: list[tuple[Any, ...]]
) -> None:
    keys = build_keys(url_source(idp.jwks_uri), clock)

    for step in steps:
        match step:
            case ("find", kid, result):
                assert await look_up(keys, kid) == result
            case ("advance", seconds):
                clock.advance(seconds)
            case ("publish", signer):
                idp.signers = [signer]
            case ("fail",):
                idp.faults[JWKS] = b"down"
            case ("recover",):
                idp.faults.clear()
            case ("requests", number):
                assert idp.requested_paths == [JWKS] * number
            case _:
                raise AssertionError(step)


async def test_token_with_a_new_key_causes_a_fetch(idp: IdentityProvider, clock: FakeClock) -> None:
    reader = build_token_reader(idp, clock)
    await reader.read(idp.logout_token(OLD))
    clock.advance(60)
    idp.signers = [OLD, NEW]

    await reader.read(idp.logout_token(NEW))
    await reader.read(idp.logout_token(OLD))

    assert idp.requested_paths == [JWKS, JWKS]


async def test_withdrawn_key_is_accepted_until_the_next_fetch(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    reader = build_token_reader(idp, clock)
    await reader.read(idp.logout_token(OLD))
    idp.signers = [NEW]
    clock.advance(60)
    await reader.read(idp.logout_token(NEW))

    with pytest.raises(BadLogoutToken, match="no such key"):
        await reader.read(idp.logout_token(OLD))


async def test_concurrent_lookups_share_one_fetch(idp: IdentityProvider, clock: FakeClock) -> None:
    keys = build_keys(url_source(idp.jwks_uri), clock)
    idp.may_answer.clear()
    waiting = [asyncio.create_task(has_key(keys, "old")) for _ in range(20)]
    async with asyncio.timeout(TIMEOUT):
        await idp.requested.wait()
    waiting[0].cancel()  # cancels its fetch; the next waiting lookup starts another
    idp.may_answer.set()

    results = await asyncio.gather(*waiting, return_exceptions=True)

    assert results[1:] == [True] * 19
    assert len(idp.requested_paths) <= 2


# --- When keys are unavailable


async def test_hanging_provider_times_out(idp: IdentityProvider, clock: FakeClock) -> None:
    idp.may_answer.clear()

    with pytest.raises(KeysUnavailable):
        await has_key(build_keys(url_source(idp.jwks_uri), clock, timeout=0.05), "old")


async def test_unreachable_provider_makes_keys_unavailable(clock: FakeClock) -> None:
    async with identity_provider(OLD) as gone:
        source = url_source(gone.jwks_uri)
    with pytest.raises(KeysUnavailable):
        await has_key(build_keys(source, clock), "old")


@pytest.mark.parametrize(
    "response",
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
        b'{"keys": []}' + b" " * MAX_SIZE,
    ],
    ids=lambda each: repr(each)[:40],
)
async def test_response_without_a_jwk_set_makes_keys_unavailable(
    idp: IdentityProvider, clock: FakeClock, response: web.Response | bytes
) -> None:
    idp.faults[JWKS] = response

    with pytest.raises(KeysUnavailable):
        await has_key(build_keys(url_source(idp.jwks_uri), clock), "old")

    assert idp.requested_paths == [JWKS]  # no redirect was followed


async def test_failed_fetch_is_logged_with_its_reason(
    idp: IdentityProvider, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidegate")
    idp.faults[JWKS] = web.Response(status=404)
    with pytest.raises(KeysUnavailable):
        await has_key(build_keys(url_source(idp.jwks_uri), clock), "old")

    (line,) = (vars(record) for record in caplog.records)
    assert (line["provider"], line["reason"]) == ("idp", "the provider responded with status 404")


# --- Discovery


async def test_keys_are_fetched_from_the_discovered_uri(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    assert await has_key(build_keys(discovery_source(idp.issuer), clock), "old")
    assert idp.requested_paths == [CONFIGURATION, JWKS]


async def test_discovery_path_is_below_the_path_of_the_issuer(
    idp: IdentityProvider, clock: FakeClock
) -> None:
    issuer = f"{idp.issuer}/realms/main/"
    idp.faults[f"/realms/main{CONFIGURATION}"] = json.dumps(
        {"issuer": issuer, "jwks_uri": idp.jwks_uri}
    ).encode()
    assert await has_key(build_keys(discovery_source(issuer), clock), "old")


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
async def test_discovery_document_with_invalid_members_is_refused(
    idp: IdentityProvider, clock: FakeClock, document: dict[str, Any]
) -> None:
    idp.discovery = document
    with pytest.raises(KeysUnavailable):
        await has_key(build_keys(discovery_source(idp.issuer), clock), "old")
    assert idp.requested_paths == [CONFIGURATION]


def test_https_issuer_cannot_direct_requests_to_loopback() -> None:
    issuer, loopback = "https://id.example", "http://localhost:6379/"

    with pytest.raises(FetchFailed):
        find_jwks_uri({"issuer": issuer, "jwks_uri": loopback}, issuer)
    assert (
        find_jwks_uri({"issuer": "http://[::1]:1", "jwks_uri": loopback}, "http://[::1]:1")
        == loopback
    )


@pytest.mark.parametrize(
    "response", [b"[]", b"{", web.Response(status=302), b"\0" * (MAX_SIZE + 1)]
)
async def test_malformed_discovery_document_makes_keys_unavailable(
    idp: IdentityProvider, clock: FakeClock, response: web.Response | bytes
) -> None:
    idp.faults[CONFIGURATION] = response
    with pytest.raises(KeysUnavailable):
        await has_key(build_keys(discovery_source(idp.issuer), clock), "old")
    assert idp.requested_paths == [CONFIGURATION]


# --- Files, and certificates


async def test_file_is_read_again_for_an_unknown_key(
    idp: IdentityProvider, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(idp.jwks()))
    keys = build_keys(file_source(path), clock)
    assert await has_key(keys, "old")

    idp.signers = [NEW]
    path.write_text(json.dumps(idp.jwks()))
    clock.advance(60)

    assert await has_key(keys, "new")
    assert idp.requested_paths == []


async def test_missing_or_too_large_file_makes_keys_unavailable(
    clock: FakeClock, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(b'{"keys": []}' + b" " * MAX_SIZE)
    for name in ("none", "large", "."):
        with pytest.raises(KeysUnavailable):
            await has_key(build_keys(file_source(tmp_path / name), clock), "old")


async def test_untrusted_certificate_makes_keys_unavailable(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*write_certificate(tmp_path))
    async with identity_provider(OLD, ssl=tls) as idp:
        with pytest.raises(KeysUnavailable):
            await has_key(build_keys(discovery_source(idp.issuer), clock), "old")
        assert idp.requested_paths == []
    errors = [vars(record).get("reason", "") for record in caplog.records]
    assert "cannot connect to the provider: ClientConnectorCertificateError" in errors


# --- Which algorithms a key is used with


def usable_algorithms(jwk: dict[str, Any], *algorithms: str) -> list[str]:
    return [key.algorithm for key in parse_jwk_set({"keys": [jwk]}, algorithms)]


ALL_ALGORITHMS = ("RS256", "PS256", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def jwk_without_alg(signer: Signer, **more: object) -> dict[str, Any]:
    jwk = signer.jwk(**more)
    return {name: value for name, value in jwk.items() if name != "alg" or "alg" in more}


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (jwk_without_alg(OLD), ["RS256", "PS256", "PS512"]),
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
        (jwk_without_alg(Signer("RS256", "short", private_key("RSA1024"))), []),
        (jwk_without_alg(Signer.of("ES256")), ["ES256"]),
        (jwk_without_alg(Signer.of("ES384")), ["ES384"]),
        (jwk_without_alg(Signer.of("ES512")), ["ES512"]),
        (jwk_without_alg(Signer.of("ES256"), crv="P-384"), []),
        (jwk_without_alg(Signer.of("ES256"), x="AA"), []),
        (jwk_without_alg(Signer.of("EdDSA")), ["EdDSA"]),
        (jwk_without_alg(Signer.of("EdDSA"), crv="X25519"), []),
        ({"kty": "oct", "k": "AAAA"}, []),
        ({}, []),
    ],
)
def test_key_is_used_with_suitable_algorithms_only(
    jwk: dict[str, Any], algorithms: list[str]
) -> None:
    assert usable_algorithms(jwk, *ALL_ALGORITHMS) == algorithms


_any_value = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_members = st.sampled_from(
    ["kty", "crv", "n", "e", "x", "y", "d", "k", "use", "key_ops", "alg", "kid", "x5c"]
)
_valid = st.sampled_from([OLD.jwk(), Signer.of("ES256").jwk(), Signer.of("EdDSA").jwk()])


@settings(max_examples=300, deadline=None)
@given(
    valid=_valid,
    invalid=st.dictionaries(_members, _any_value | st.lists(_any_value, max_size=2), max_size=4),
    removed=st.sets(_members, max_size=2),
)
def test_arbitrary_jwk_is_used_or_ignored(
    valid: dict[str, Any], invalid: dict[str, Any], removed: set[str]
) -> None:
    jwk = {name: value for name, value in (valid | invalid).items() if name not in removed}

    assert set(usable_algorithms(jwk, *ALL_ALGORITHMS)) <= set(ALL_ALGORITHMS)


def test_repr_of_a_key_omits_its_value() -> None:
    (key,) = parse_jwk_set({"keys": [OLD.jwk()]}, ["RS256"])
    assert repr(key) == "Key(id='old', algorithm='RS256')"
