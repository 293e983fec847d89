"""Forged logout tokens: each kind of forgery is refused, and revokes nothing."""

import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.core.errors import BadLogoutToken
from sidegate.core.logout import EVENT, Logout
from tests.support.clock import NOON, FakeClock
from tests.web.oidc.identity_provider import (
    CLIENT_ID,
    IdentityProvider,
    Signer,
    base64url,
    identity_provider,
    logout_claims,
    private_key,
    to_json,
)
from tests.web.oidc.logout_harness import (
    ALGORITHMS,
    LogoutHarness,
    build_token_reader,
    open_logout_harness,
)

RS256, PS256, ES256, EDDSA = map(Signer.of, ALGORITHMS)
SHORT = Signer("RS256", "short", private_key("RSA1024"))
P384 = Signer.of("ES384", "p384")
ATTACKER = Signer.of("RS256", "attacker")
OCT = b"a symmetric key that provider and client share"

Forge = Callable[[IdentityProvider], str]
NOW = int(NOON.timestamp())


def published_keys() -> list[dict[str, Any]]:
    """Return the keys that the provider publishes besides one for each algorithm."""
    return [
        SHORT.jwk(),
        P384.jwk(),
        {**P384.jwk(), "kid": "p384-for-all", "alg": "ES256"},
        {"kty": "oct", "kid": "oct", "k": base64url(OCT)},
        RS256.jwk(kid="for-encryption", use="enc"),
        RS256.jwk(kid="for-wrapping", key_ops=["wrapKey"]),
        RS256.jwk(kid="for-ps256", alg="PS256"),
        RS256.jwk(kid="twice"),
        ATTACKER.jwk(kid="twice"),
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "EC", "kid": "off-curve", "crv": "P-256", "x": base64url(b"1" * 32), "y": "AQ"},
        {"kty": "of-tomorrow", "kid": "of-tomorrow"},
    ]


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    async with identity_provider(RS256, PS256, ES256, EDDSA) as provider:
        provider.more_keys = published_keys()
        yield provider


@pytest.fixture
async def harness(tmp_path: Path, idp: IdentityProvider) -> AsyncIterator[LogoutHarness]:
    async with open_logout_harness(tmp_path, idp) as opened:
        yield opened


def with_claims(**changes: Any) -> Forge:
    """Return a token that the provider signed, with other claims."""
    return lambda idp: idp.logout_token(**changes)


def with_header(signer: Signer = RS256, /, **header: Any) -> Forge:
    """Sign with this key, with any header; `...` removes a member."""

    def forge(idp: IdentityProvider) -> str:
        members = {k: v for k, v in signer.header(**header).items() if v is not ...}
        return signer.sign(logout_claims(idp.issuer), members)

    return forge


def with_payload(payload: bytes | Callable[[str], bytes], header: object = None) -> Forge:
    """Sign a payload that need not be JSON."""

    def forge(idp: IdentityProvider) -> str:
        return RS256.sign(payload(idp.issuer) if callable(payload) else payload, header)

    return forge


def with_raw_payload(payload: str) -> Forge:
    """Sign a payload that is encoded already."""

    def forge(_: IdentityProvider) -> str:
        signed = f"{base64url(to_json(RS256.header()))}.{payload}"
        return f"{signed}.{base64url(RS256.signature(signed))}"

    return forge


def hmac_signed(secret: bytes, **header: Any) -> Forge:
    """Sign with HMAC and a secret that is not one."""

    def forge(idp: IdentityProvider) -> str:
        head = RS256.header(alg="HS256", **header)
        signed = f"{base64url(to_json(head))}.{base64url(to_json(logout_claims(idp.issuer)))}"
        return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"

    return forge


def with_parts_changed(change: Callable[[list[str]], str], signer: Signer = RS256) -> Forge:
    """Change the three parts of a valid token."""
    return lambda idp: change(idp.logout_token(signer).split("."))


def unsigned(**header: Any) -> Forge:
    return lambda idp: (
        f"{base64url(to_json(RS256.header(**header)))}.{base64url(to_json(logout_claims(idp.issuer)))}."
    )


def pem() -> bytes:
    public: RSAPublicKey = RS256.key.public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def der_signature(idp: IdentityProvider) -> str:
    header, payload, signature = idp.logout_token(ES256).split(".")
    rs = ES256.signature(f"{header}.{payload}")
    del signature
    r, s = int.from_bytes(rs[:32]), int.from_bytes(rs[32:])
    return f"{header}.{payload}.{base64url(encode_dss_signature(r, s))}"


def with_spare_bits(parts: list[str]) -> str:
    """Return another text of the same signature: four bits of its last character are unused."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(parts[2][-1]) | 1]
    return ".".join([*parts[:2], parts[2][:-1] + last])


def as_jwe(parts: list[str]) -> str:
    head = base64url(to_json({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": RS256.kid}))
    return ".".join([head, "a2V5", "aXY", parts[1], "dGFn"])


def unencoded_payload(idp: IdentityProvider) -> str:
    """Sign the payload without encoding it (RFC 7797)."""
    head = base64url(to_json(RS256.header(b64=False, crit=["b64"])))
    payload = base64url(to_json(logout_claims(idp.issuer)))
    return f"{head}.{payload}.{base64url(RS256.signature(f'{head}.{payload}'))}"


def duplicate_claim(member: str, value: object) -> Callable[[str], bytes]:
    """Return claims with a duplicate: first a wrong value, then the valid one."""
    return lambda issuer: (
        b"{"
        + f"{json.dumps(member)}: {json.dumps(value)}, ".encode()
        + to_json(logout_claims(issuer))[1:]
    )


def constant_text(serialized: str) -> Forge:
    return lambda _: serialized


def as_general_json(parts: list[str]) -> str:
    return json.dumps(
        {"payload": parts[1], "signatures": [{"protected": parts[0], "signature": parts[2]}]}
    )


def as_flattened_json(parts: list[str]) -> str:
    return json.dumps({"protected": parts[0], "payload": parts[1], "signature": parts[2]})


SIGNATURES: dict[str, Forge] = {
    "alg none, no signature": unsigned(alg="none"),
    "alg None": unsigned(alg="None"),
    "alg none, a signature": with_header(alg="none"),
    "alg NONE, a signature": with_header(alg="NONE"),
    "alg missing": with_header(alg=...),
    "alg null": with_header(alg=None),
    "alg a list": with_header(alg=["RS256"]),
    "alg an object": with_header(alg={"RS256": True}),
    "alg a number": with_header(alg=256),
    "alg in lower case": with_header(alg="rs256"),
    "alg empty": with_header(alg=""),
    "alg RS1": with_header(alg="RS1"),
    "alg RS384 not allowed, valid signature": with_header(replace(RS256, algorithm="RS384")),
    "alg ES384 not allowed, valid signature": with_header(P384),
    "RS/HS confusion: the PEM as secret": hmac_signed(pem()),
    "RS/HS confusion: the JWK as secret": hmac_signed(to_json(RS256.jwk())),
    "HS256 by the provider's symmetric key": hmac_signed(OCT, kid="oct"),
    "HS256 by our client_id": hmac_signed(CLIENT_ID.encode()),
    "HS256 by an empty secret": hmac_signed(b""),
    "another key under the right kid": with_header(replace(ATTACKER, kid=RS256.kid)),
    "another key under its own kid": with_header(ATTACKER),
    "the signature of another token": with_parts_changed(
        lambda parts: ".".join([*parts[:2], RS256.sign({"a": 1}).split(".")[2]])
    ),
    "the payload changed": with_parts_changed(
        lambda parts: ".".join([parts[0], base64url(to_json(logout_claims("x"))), parts[2]])
    ),
    "the header changed": with_parts_changed(
        lambda parts: ".".join([base64url(to_json(RS256.header(x=1))), *parts[1:]])
    ),
    "no signature": with_parts_changed(lambda parts: f"{parts[0]}.{parts[1]}."),
    "a signature too short": with_parts_changed(lambda parts: ".".join(parts)[:-4]),
    "a signature too long": with_parts_changed(lambda parts: ".".join(parts) + "AAAA"),
    "a signature with a byte changed": with_parts_changed(
        lambda parts: ".".join([*parts[:2], ("A" if parts[2][0] != "A" else "B") + parts[2][1:]])
    ),
    "a signature with spare bits": with_parts_changed(with_spare_bits),
    "a signature with padding": with_parts_changed(lambda parts: ".".join(parts) + "=="),
    "RS256 called PS256": with_header(RS256, alg="PS256", kid=PS256.kid),
    "RS256 called PS256, by one key": with_header(RS256, alg="PS256", kid="for-ps256"),
    "PS256 called RS256": with_header(PS256, alg="RS256", kid=RS256.kid),
    "RS384 called RS256": with_header(replace(RS256, algorithm="RS384"), alg="RS256"),
    "ES256 by an RSA key": with_header(ES256, kid=RS256.kid),
    "RS256 by a P-256 key": with_header(RS256, kid=ES256.kid),
    "EdDSA by a P-256 key": with_header(EDDSA, kid=ES256.kid),
    "ES256 by a P-384 key": with_header(P384, alg="ES256", kid="p384"),
    "ES256 by a P-384 key said to be for it": with_header(P384, alg="ES256", kid="p384-for-all"),
    "ES256 encoded in DER": der_signature,
    "ES256 of zeros": with_parts_changed(lambda p: f"{p[0]}.{p[1]}.{base64url(bytes(64))}", ES256),
    "ES256 of nothing": with_parts_changed(lambda p: f"{p[0]}.{p[1]}.AA", ES256),
    "EdDSA of zeros": with_parts_changed(lambda p: f"{p[0]}.{p[1]}.{base64url(bytes(64))}", EDDSA),
    "EdDSA of 32 bytes": with_parts_changed(
        lambda p: f"{p[0]}.{p[1]}.{base64url(bytes(32))}", EDDSA
    ),
    "RS256 of ones": with_parts_changed(
        lambda p: f"{p[0]}.{p[1]}.{base64url(bytes(255) + bytes([1]))}"
    ),
}
KEYS: dict[str, Forge] = {
    "kid unknown": with_header(kid="unknown"),
    "kid missing with several keys": with_header(kid=...),
    "kid empty": with_header(kid=""),
    "kid null": with_header(kid=None),
    "kid a number": with_header(kid=1),
    "kid a list": with_header(kid=[RS256.kid]),
    "kid an object": with_header(kid={"$ne": None}),
    "kid huge": with_header(kid="k" * 257),
    "kid a path": with_header(kid="../../../../dev/null"),
    "kid SQL": with_header(kid="x' UNION SELECT 'key"),
    "kid with a NUL": with_header(kid=f"{RS256.kid}\0"),
    "kid in lower case": with_header(kid=RS256.kid.lower()),
    "kid of two keys": with_header(kid="twice"),
    "kid of a key for encryption": with_header(kid="for-encryption"),
    "kid of a key for wrapping": with_header(kid="for-wrapping"),
    "kid of a key for another alg": with_header(kid="for-ps256"),
    "kid of a key that is too short": with_header(SHORT),
    "kid of a symmetric key": with_header(kid="oct"),
    "kid of a broken key": with_header(kid="broken"),
    "kid of a key off its curve": with_header(ES256, kid="off-curve"),
    "kid of an unknown key type": with_header(kid="of-tomorrow"),
}
HEADERS: dict[str, Forge] = {
    "key in the header: jwk": with_header(ATTACKER, jwk=ATTACKER.jwk(), kid=...),
    "key in the header: jwk under the right kid": with_header(
        ATTACKER, jwk=ATTACKER.jwk(kid=RS256.kid), kid=RS256.kid
    ),
    "key in the header: x5c": with_header(ATTACKER, x5c=["MIIB"]),
    "crit": with_header(crit=["exp"]),
    "crit of a supported member": with_header(crit=["kid"]),
    "crit empty": with_header(crit=[]),
    "crit null": with_header(crit=None),
    "unencoded payload": unencoded_payload,
    "b64 without crit": with_header(b64=False),
    "b64 true": with_header(b64=True),
    "typ missing": with_header(typ=...),
    "typ null": with_header(typ=None),
    "typ JWT": with_header(typ="JWT"),
    "typ of an access token": with_header(typ="at+jwt"),
    "typ of a security event": with_header(typ="secevent+jwt"),
    "typ with a space": with_header(typ="logout+jwt "),
    "typ with a parameter": with_header(typ="logout+jwt;v=1"),
    "typ of another tree": with_header(typ="text/logout+jwt"),
    "typ with application/ twice": with_header(typ="application/application/logout+jwt"),
    "typ a number": with_header(typ=1),
    "typ a list": with_header(typ=["logout+jwt"]),
    "typ an object": with_header(typ={}),
    "duplicate alg": lambda idp: RS256.sign(
        logout_claims(idp.issuer), b'{"alg": "none", ' + to_json(RS256.header())[1:]
    ),
    "duplicate kid": lambda idp: RS256.sign(
        logout_claims(idp.issuer), b'{"kid": "x", ' + to_json(RS256.header())[1:]
    ),
    "header is a list": lambda idp: RS256.sign(logout_claims(idp.issuer), [RS256.header()]),
    "header is a text": lambda idp: RS256.sign(logout_claims(idp.issuer), "RS256"),
    "header is not JSON": lambda idp: RS256.sign(logout_claims(idp.issuer), b"{alg: RS256}"),
    "header is not UTF-8": lambda idp: RS256.sign(logout_claims(idp.issuer), b'{"alg": "\xff"}'),
    "header is deeply nested": lambda idp: RS256.sign(
        logout_claims(idp.issuer), b'{"alg": "RS256", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    ),
}
CLAIMS: dict[str, Forge] = {
    "iss another": with_claims(iss="https://another.example"),
    "iss with a slash": lambda idp: idp.logout_token(iss=f"{idp.issuer}/"),
    "iss in upper case": lambda idp: idp.logout_token(iss=idp.issuer.upper()),
    "iss a list": lambda idp: idp.logout_token(iss=[idp.issuer]),
    "iss missing": with_claims(iss=...),
    "iss null": with_claims(iss=None),
    "aud another": with_claims(aud="another"),
    "aud others": with_claims(aud=["another", "one more"]),
    "aud has ours as a prefix": with_claims(aud="shopping"),
    "aud in upper case": with_claims(aud="SHOP"),
    "aud empty": with_claims(aud=[]),
    "aud missing": with_claims(aud=...),
    "aud null": with_claims(aud=None),
    "aud an object": with_claims(aud={CLIENT_ID: True}),
    "aud with a number": with_claims(aud=[CLIENT_ID, 1]),
    "aud a nested list": with_claims(aud=[[CLIENT_ID]]),
    "iat missing": with_claims(iat=...),
    "iat null": with_claims(iat=None),
    "iat a text": with_claims(iat=str(NOW)),
    "iat true": with_claims(iat=True),
    "iat a list": with_claims(iat=[NOW]),
    "iat old": with_claims(iat=NOW - 331, exp=NOW + 3600),
    "iat in the future": with_claims(iat=NOW + 31),
    "iat below zero": with_claims(iat=-1),
    "iat in milliseconds": with_claims(iat=NOW * 1000, exp=NOW * 1000 + 120_000),
    "iat out of range": with_claims(iat=10**400),
    "exp missing": with_claims(exp=...),
    "exp null": with_claims(exp=None),
    "exp a text": with_claims(exp="never"),
    "exp false": with_claims(exp=False),
    "exp in the past": with_claims(iat=NOW - 60, exp=NOW - 30),
    "exp below zero": with_claims(exp=-1),
    "exp out of range": with_claims(exp=10**400),
    "nbf in the future": with_claims(nbf=NOW + 31),
    "nbf a text": with_claims(nbf="now"),
    "nbf null": with_claims(nbf=None),
    "nbf true": with_claims(nbf=True),
    "jti missing": with_claims(jti=...),
    "jti null": with_claims(jti=None),
    "jti empty": with_claims(jti=""),
    "jti a number": with_claims(jti=1),
    "jti too long": with_claims(jti="j" * 513),
    "events missing": with_claims(events=...),
    "events null": with_claims(events=None),
    "events empty": with_claims(events={}),
    "events a list": with_claims(events=[EVENT]),
    "events a text": with_claims(events=EVENT),
    "events another": with_claims(events={"http://schemas.openid.net/secevent/x": {}}),
    "events by https": with_claims(events={EVENT.replace("http:", "https:"): {}}),
    "events with another": with_claims(events={EVENT: {}, "http://schemas.openid.net/x": {}}),
    "events null inside": with_claims(events={EVENT: None}),
    "events true inside": with_claims(events={EVENT: True}),
    "events a list inside": with_claims(events={EVENT: []}),
    "a nonce": with_claims(nonce="n-0S6_WzA2Mj"),
    "a null nonce": with_claims(nonce=None),
    "neither sid nor sub": with_claims(sid=...),
    "sid null": with_claims(sid=None),
    "sid null beside sub": with_claims(sid=None, sub="u1"),
    "sid a number": with_claims(sid=1),
    "sid a list": with_claims(sid=["s1"]),
    "sid empty": with_claims(sid=""),
    "sid too long": with_claims(sid="s" * 513),
    "sid with a NUL": with_claims(sid="s1\0"),
    "sid with a line break": with_claims(sid="s1\n"),
    "sid with a lone surrogate": with_claims(sid="\ud800"),
    "sub null": with_claims(sub=None),
    "sub an object": with_claims(sub={"id": "u1"}),
    "sub empty beside sid": with_claims(sub=""),
    "sub a number alone": with_claims(sid=..., sub=7),
    "an ID token": with_claims(events=..., jti=..., nonce="n", auth_time=NOW, sub="u1"),
    "an access token": with_claims(events=..., scope="openid", client_id=CLIENT_ID, sub="u1"),
}
STRUCTURES: dict[str, Forge] = {
    "duplicate iss": with_payload(duplicate_claim("iss", "https://another.example")),
    "duplicate events": with_payload(duplicate_claim("events", {})),
    "duplicate sid": with_payload(duplicate_claim("sid", "s2")),
    "duplicate nested member": with_payload(
        lambda issuer: to_json(logout_claims(issuer)).replace(
            b'logout": {}', b'logout": {"a": 1, "a": 2}'
        )
    ),
    "payload is a list": with_payload(b"[]"),
    "payload is a text": with_payload(b'"logout"'),
    "payload is null": with_payload(b"null"),
    "payload is not JSON": with_payload(b"sid=s1"),
    "a payload with NaN": with_payload(
        lambda issuer: to_json(logout_claims(issuer, x=float("nan")))
    ),
    "payload with trailing data": with_payload(
        lambda issuer: to_json(logout_claims(issuer)) + b"{}"
    ),
    "a payload with a byte order mark": with_payload(
        lambda issuer: b"\xef\xbb\xbf" + to_json(logout_claims(issuer))
    ),
    "a payload in UTF-16": with_payload(
        lambda issuer: to_json(logout_claims(issuer)).decode().encode("utf-16")
    ),
    "payload is not UTF-8": with_payload(lambda issuer: to_json(logout_claims(issuer)) + b"\xff"),
    "payload is deeply nested": with_payload(
        lambda issuer: (
            to_json(logout_claims(issuer))[:-1] + b', "x": ' + b"[" * 2000 + b"]" * 2000 + b"}"
        )
    ),
    "payload with a very long number": with_payload(
        lambda issuer: to_json(logout_claims(issuer))[:-1] + b', "x": ' + b"9" * 5000 + b"}"
    ),
    "a JWT in a JWT": lambda idp: RS256.sign(idp.logout_token().encode(), RS256.header(cty="JWT")),
    "a JWT as the event": lambda idp: idp.logout_token(events={EVENT: idp.logout_token()}),
    "a JWE": with_parts_changed(as_jwe),
    "two parts": with_parts_changed(lambda parts: ".".join(parts[:2])),
    "four parts": with_parts_changed(lambda parts: ".".join([*parts, parts[2]])),
    "empty part": with_parts_changed(lambda parts: f"{parts[0]}..{parts[2]}"),
    "JWS in general JSON": with_parts_changed(as_general_json),
    "JWS in flattened JSON": with_parts_changed(as_flattened_json),
    "white space before it": with_parts_changed(lambda parts: " " + ".".join(parts)),
    "a line break after it": with_parts_changed(lambda parts: ".".join(parts) + "\n"),
    "a line break in it": with_parts_changed(lambda parts: ".\n".join(parts)),
    "standard base64": with_parts_changed(lambda parts: f"{parts[0]}.{parts[1]}.+/+/"),
    "a signature of 4n + 1 characters": with_parts_changed(
        lambda parts: f"{parts[0]}.{parts[1]}.AAAAA"
    ),
    "a header of 4n + 1 characters": with_parts_changed(
        lambda parts: f"AAAAA.{parts[1]}.{parts[2]}"
    ),
    "a payload of 4n + 1 characters": with_raw_payload("AAAAA"),
    "a payload with spare bits": with_raw_payload(base64url(b'{"a": 1}')[:-1] + "R"),
    "digits of another script": with_parts_changed(
        lambda parts: ".".join(parts).replace("1", "\u0661")
    ),
    "with Bearer": with_parts_changed(lambda parts: "Bearer " + ".".join(parts)),
    "a session token": constant_text("sgs_" + "A" * 56),
    "only dots": constant_text(".."),
    "a NUL": constant_text("\0"),
    "huge": lambda idp: idp.logout_token(x="x" * 16_384),
    "huge text": constant_text("A" * 60_000),
}
FORGED = SIGNATURES | KEYS | HEADERS | CLAIMS | STRUCTURES


@pytest.mark.parametrize("name", FORGED)
async def test_forged_logout_token_is_refused_and_ends_nothing(
    harness: LogoutHarness, name: str
) -> None:
    sessions = [
        await harness.create_session(provider_session_id=session_id, provider_subject="u1")
        for session_id in ("s1", "s2")
    ]

    reply = await harness.post(FORGED[name](harness.idp))

    assert reply.status == 400, reply.text
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.body.keys() == {"error", "error_description"}
    assert reply.body["error"] == "invalid_request"
    assert harness.outcomes == [("idp", "invalid")]
    assert all([await harness.is_active(session_id) for session_id in sessions])


async def test_helpers_produce_valid_tokens_without_forgery(harness: LogoutHarness) -> None:
    """A helper that forges nothing returns a token that is accepted."""
    for signer in (RS256, PS256, ES256, EDDSA):
        assert (await harness.post(with_header(signer)(harness.idp))).status == 200
    assert (await harness.post(with_claims()(harness.idp))).status == 200
    assert (
        await harness.post(with_payload(lambda issuer: to_json(logout_claims(issuer)))(harness.idp))
    ).status == 200
    assert (await harness.post(with_parts_changed(".".join)(harness.idp))).status == 200


@pytest.mark.parametrize("member", ["jku", "x5u"])
async def test_key_url_in_the_header_is_never_fetched(harness: LogoutHarness, member: str) -> None:
    async with identity_provider(ATTACKER) as attacker:
        forged = ATTACKER.sign(
            logout_claims(harness.idp.issuer),
            ATTACKER.header(**{member: attacker.jwks_uri, "kid": RS256.kid}),
        )

        reply = await harness.post(forged)

        assert reply.status == 400
        assert attacker.requested_paths == []
        assert harness.idp.requested_paths == ["/jwks"]


# --- Property tests


@pytest.fixture(scope="module")
def offline() -> IdentityProvider:
    """A provider without a server; its keys are passed directly."""
    return IdentityProvider("https://id.example", [RS256, PS256, ES256, EDDSA], published_keys())


async def read(idp: IdentityProvider, logout_token: str) -> Logout | None:
    async def source() -> bytes:
        return to_json(idp.jwks())

    try:
        return await build_token_reader(idp, FakeClock(), source=source).read(logout_token)
    except BadLogoutToken:
        return None


_characters = st.sampled_from('ABCxyz019-_.=+/ \n{}"\0é')


@settings(max_examples=150, deadline=None)
@given(st.data())
async def test_modified_token_is_refused(offline: IdentityProvider, data: st.DataObject) -> None:
    valid = offline.logout_token(data.draw(st.sampled_from([RS256, ES256, EDDSA])))
    at = data.draw(st.integers(0, 9999)) % len(valid)  # the length of a token varies
    width = data.draw(st.integers(0, 4))
    put = data.draw(st.text(_characters, max_size=4))
    changed = valid[:at] + put + valid[at + width :]

    assert (await read(offline, changed) is not None) == (changed == valid)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
_names = st.sampled_from(
    ["iss", "aud", "iat", "exp", "nbf", "jti", "events", "sid", "sub", "nonce"]
)


@settings(max_examples=300, deadline=None)
@given(changes=st.dictionaries(_names, _json, min_size=1, max_size=3))
async def test_arbitrary_signed_claims_are_parsed_or_refused(
    offline: IdentityProvider, changes: dict[str, Any]
) -> None:
    logout = await read(offline, offline.logout_token(EDDSA, **changes))

    if logout is not None:
        assert changes.keys() <= {"iat", "exp", "nbf", "jti", "sid", "sub"}
        assert logout.provider_session_id == changes.get("sid", "s1")
        assert logout.provider_subject == changes.get("sub")


@settings(max_examples=200, deadline=None)
@given(
    header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "x"]), _json, max_size=4)
)
async def test_arbitrary_header_is_parsed_or_refused(
    offline: IdentityProvider, header: dict[str, Any]
) -> None:
    signed = EDDSA.sign(logout_claims(offline.issuer), EDDSA.header(**header))

    assert (await read(offline, signed) is not None) == (header.keys() <= {"x"})


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_.-]{0,60}"))
async def test_arbitrary_text_is_refused(offline: IdentityProvider, text: str) -> None:
    assert await read(offline, text) is None
