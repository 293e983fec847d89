"""Forged logout tokens, one for each way to forge one: each is refused, and ends nothing."""

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
    claims,
    encoded,
    identity_provider,
    private_key,
    spelled,
)
from tests.web.oidc.logout_rig import ALGORITHMS, Rig, logout_rig, tokens_of

RS256, PS256, ES256, EDDSA = map(Signer.of, ALGORITHMS)
SHORT = Signer("RS256", "short", private_key("RSA1024"))
P384 = Signer.of("ES384", "p384")
STRANGER = Signer.of("RS256", "stranger")
OCT = b"a secret that both sides share, as they should not"

Forge = Callable[[IdentityProvider], str]
NOW = int(NOON.timestamp())


def keys() -> list[dict[str, Any]]:
    """Return what the provider publishes beside a key for each algorithm."""
    return [
        SHORT.jwk(),
        P384.jwk(),
        {**P384.jwk(), "kid": "p384-for-all", "alg": "ES256"},
        {"kty": "oct", "kid": "oct", "k": encoded(OCT)},
        RS256.jwk(kid="for-encryption", use="enc"),
        RS256.jwk(kid="for-wrapping", key_ops=["wrapKey"]),
        RS256.jwk(kid="for-ps256", alg="PS256"),
        RS256.jwk(kid="twice"),
        STRANGER.jwk(kid="twice"),
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "EC", "kid": "off-curve", "crv": "P-256", "x": encoded(b"1" * 32), "y": "AQ"},
        {"kty": "of-tomorrow", "kid": "of-tomorrow"},
    ]


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    async with identity_provider(RS256, PS256, ES256, EDDSA) as provider:
        provider.more_keys = keys()
        yield provider


@pytest.fixture
async def rig(tmp_path: Path, idp: IdentityProvider) -> AsyncIterator[Rig]:
    async with logout_rig(tmp_path, idp) as opened:
        yield opened


def saying(**changes: Any) -> Forge:
    """Forge nothing: the provider itself signs what is no logout token, or none for us."""
    return lambda idp: idp.logout_token(**changes)


def headed(signer: Signer = RS256, /, **header: Any) -> Forge:
    """Sign with this key, whatever the header says; `...` leaves a member out."""

    def forge(idp: IdentityProvider) -> str:
        members = {k: v for k, v in signer.header(**header).items() if v is not ...}
        return signer.sign(claims(idp.issuer), members)

    return forge


def raw(payload: bytes | Callable[[str], bytes], header: object = None) -> Forge:
    """Sign bytes that need not be JSON."""

    def forge(idp: IdentityProvider) -> str:
        return RS256.sign(payload(idp.issuer) if callable(payload) else payload, header)

    return forge


def raw_part(payload: str) -> Forge:
    """Sign a payload that is spelled as it stands."""

    def forge(_: IdentityProvider) -> str:
        signed = f"{encoded(spelled(RS256.header()))}.{payload}"
        return f"{signed}.{encoded(RS256.signature(signed))}"

    return forge


def shared_secret(secret: bytes, **header: Any) -> Forge:
    """Sign with HMAC, by a secret that everybody knows."""

    def forge(idp: IdentityProvider) -> str:
        head = RS256.header(alg="HS256", **header)
        signed = f"{encoded(spelled(head))}.{encoded(spelled(claims(idp.issuer)))}"
        return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), 'sha256'))}"

    return forge


def altered(change: Callable[[list[str]], str], signer: Signer = RS256) -> Forge:
    """Make something else of the three parts of a right one."""
    return lambda idp: change(idp.logout_token(signer).split("."))


def unsigned(**header: Any) -> Forge:
    return lambda idp: (
        f"{encoded(spelled(RS256.header(**header)))}.{encoded(spelled(claims(idp.issuer)))}."
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
    return f"{header}.{payload}.{encoded(encode_dss_signature(r, s))}"


def spare_bits(parts: list[str]) -> str:
    """Return another spelling of the same signature: its last digit has four bits to spare."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(parts[2][-1]) | 1]
    return ".".join([*parts[:2], parts[2][:-1] + last])


def a_jwe(parts: list[str]) -> str:
    head = encoded(spelled({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": RS256.kid}))
    return ".".join([head, "a2V5", "aXY", parts[1], "dGFn"])


def unencoded(idp: IdentityProvider) -> str:
    """Sign the payload as RFC 7797 lets one: as it stands."""
    head = encoded(spelled(RS256.header(b64=False, crit=["b64"])))
    payload = encoded(spelled(claims(idp.issuer)))
    return f"{head}.{payload}.{encoded(RS256.signature(f'{head}.{payload}'))}"


def twice(member: str, value: object) -> Callable[[str], bytes]:
    """Name a claim twice: once wrongly, then as it should be."""
    return lambda issuer: (
        b"{" + f"{json.dumps(member)}: {json.dumps(value)}, ".encode() + spelled(claims(issuer))[1:]
    )


def no_jwt(serialized: str) -> Forge:
    return lambda _: serialized


def general_json(parts: list[str]) -> str:
    return json.dumps(
        {"payload": parts[1], "signatures": [{"protected": parts[0], "signature": parts[2]}]}
    )


def flattened_json(parts: list[str]) -> str:
    return json.dumps({"protected": parts[0], "payload": parts[1], "signature": parts[2]})


SIGNATURES: dict[str, Forge] = {
    "alg none, no signature": unsigned(alg="none"),
    "alg None": unsigned(alg="None"),
    "alg none, a signature": headed(alg="none"),
    "alg NONE, a signature": headed(alg="NONE"),
    "alg missing": headed(alg=...),
    "alg null": headed(alg=None),
    "alg a list": headed(alg=["RS256"]),
    "alg an object": headed(alg={"RS256": True}),
    "alg a number": headed(alg=256),
    "alg in lower case": headed(alg="rs256"),
    "alg empty": headed(alg=""),
    "alg RS1": headed(alg="RS1"),
    "alg not allowed, signed rightly": headed(replace(RS256, algorithm="RS384")),
    "alg ES384 not allowed, signed rightly": headed(P384),
    "RS/HS confusion: the PEM as secret": shared_secret(pem()),
    "RS/HS confusion: the JWK as secret": shared_secret(spelled(RS256.jwk())),
    "HS256 by the provider's own secret": shared_secret(OCT, kid="oct"),
    "HS256 by our client_id": shared_secret(CLIENT_ID.encode()),
    "HS256 by an empty secret": shared_secret(b""),
    "another's key under the right kid": headed(replace(STRANGER, kid=RS256.kid)),
    "another's key under its own kid": headed(STRANGER),
    "the signature of another token": altered(
        lambda parts: ".".join([*parts[:2], RS256.sign({"a": 1}).split(".")[2]])
    ),
    "the payload changed": altered(
        lambda parts: ".".join([parts[0], encoded(spelled(claims("x"))), parts[2]])
    ),
    "the header changed": altered(
        lambda parts: ".".join([encoded(spelled(RS256.header(x=1))), *parts[1:]])
    ),
    "no signature": altered(lambda parts: f"{parts[0]}.{parts[1]}."),
    "a signature too short": altered(lambda parts: ".".join(parts)[:-4]),
    "a signature too long": altered(lambda parts: ".".join(parts) + "AAAA"),
    "a signature with a byte changed": altered(
        lambda parts: ".".join([*parts[:2], ("A" if parts[2][0] != "A" else "B") + parts[2][1:]])
    ),
    "a signature with spare bits": altered(spare_bits),
    "a signature with padding": altered(lambda parts: ".".join(parts) + "=="),
    "RS256 called PS256": headed(RS256, alg="PS256", kid=PS256.kid),
    "RS256 called PS256, by one key": headed(RS256, alg="PS256", kid="for-ps256"),
    "PS256 called RS256": headed(PS256, alg="RS256", kid=RS256.kid),
    "RS384 called RS256": headed(replace(RS256, algorithm="RS384"), alg="RS256"),
    "ES256 by an RSA key": headed(ES256, kid=RS256.kid),
    "RS256 by a P-256 key": headed(RS256, kid=ES256.kid),
    "EdDSA by a P-256 key": headed(EDDSA, kid=ES256.kid),
    "ES256 by a P-384 key": headed(P384, alg="ES256", kid="p384"),
    "ES256 by a P-384 key said to be for it": headed(P384, alg="ES256", kid="p384-for-all"),
    "ES256 spelled in DER": der_signature,
    "ES256 of zeros": altered(lambda p: f"{p[0]}.{p[1]}.{encoded(bytes(64))}", ES256),
    "ES256 of nothing": altered(lambda p: f"{p[0]}.{p[1]}.AA", ES256),
    "EdDSA of zeros": altered(lambda p: f"{p[0]}.{p[1]}.{encoded(bytes(64))}", EDDSA),
    "EdDSA of 32 bytes": altered(lambda p: f"{p[0]}.{p[1]}.{encoded(bytes(32))}", EDDSA),
    "RS256 of ones": altered(lambda p: f"{p[0]}.{p[1]}.{encoded(bytes(255) + bytes([1]))}"),
}
KEYS: dict[str, Forge] = {
    "kid unknown": headed(kid="unknown"),
    "kid missing, and there are several": headed(kid=...),
    "kid empty": headed(kid=""),
    "kid null": headed(kid=None),
    "kid a number": headed(kid=1),
    "kid a list": headed(kid=[RS256.kid]),
    "kid an object": headed(kid={"$ne": None}),
    "kid huge": headed(kid="k" * 257),
    "kid a path": headed(kid="../../../../dev/null"),
    "kid SQL": headed(kid="x' UNION SELECT 'key"),
    "kid with more": headed(kid=f"{RS256.kid}\0"),
    "kid in upper case": headed(kid=RS256.kid.lower()),
    "kid of two keys": headed(kid="twice"),
    "kid of a key for encryption": headed(kid="for-encryption"),
    "kid of a key for wrapping": headed(kid="for-wrapping"),
    "kid of a key for another alg": headed(kid="for-ps256"),
    "kid of a key that is too short": headed(SHORT),
    "kid of a shared secret": headed(kid="oct"),
    "kid of a broken key": headed(kid="broken"),
    "kid of a key off its curve": headed(ES256, kid="off-curve"),
    "kid of a key of tomorrow": headed(kid="of-tomorrow"),
}
HEADERS: dict[str, Forge] = {
    "a key of its own: jwk": headed(STRANGER, jwk=STRANGER.jwk(), kid=...),
    "a key of its own: jwk under the right kid": headed(
        STRANGER, jwk=STRANGER.jwk(kid=RS256.kid), kid=RS256.kid
    ),
    "a key of its own: x5c": headed(STRANGER, x5c=["MIIB"]),
    "crit": headed(crit=["exp"]),
    "crit of what is understood": headed(crit=["kid"]),
    "crit empty": headed(crit=[]),
    "crit null": headed(crit=None),
    "a payload that is not encoded": unencoded,
    "b64 without crit": headed(b64=False),
    "b64 true": headed(b64=True),
    "typ missing": headed(typ=...),
    "typ null": headed(typ=None),
    "typ JWT": headed(typ="JWT"),
    "typ of an access token": headed(typ="at+jwt"),
    "typ of a security event": headed(typ="secevent+jwt"),
    "typ with a space": headed(typ="logout+jwt "),
    "typ with a parameter": headed(typ="logout+jwt;v=1"),
    "typ of another tree": headed(typ="text/logout+jwt"),
    "typ twice application": headed(typ="application/application/logout+jwt"),
    "typ a number": headed(typ=1),
    "typ a list": headed(typ=["logout+jwt"]),
    "typ an object": headed(typ={}),
    "alg twice": lambda idp: RS256.sign(
        claims(idp.issuer), b'{"alg": "none", ' + spelled(RS256.header())[1:]
    ),
    "kid twice": lambda idp: RS256.sign(
        claims(idp.issuer), b'{"kid": "x", ' + spelled(RS256.header())[1:]
    ),
    "a header that is a list": lambda idp: RS256.sign(claims(idp.issuer), [RS256.header()]),
    "a header that is a text": lambda idp: RS256.sign(claims(idp.issuer), "RS256"),
    "a header that is no JSON": lambda idp: RS256.sign(claims(idp.issuer), b"{alg: RS256}"),
    "a header that is no UTF-8": lambda idp: RS256.sign(claims(idp.issuer), b'{"alg": "\xff"}'),
    "a header that is deep": lambda idp: RS256.sign(
        claims(idp.issuer), b'{"alg": "RS256", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    ),
}
CLAIMS: dict[str, Forge] = {
    "iss another": saying(iss="https://another.example"),
    "iss with a slash": lambda idp: idp.logout_token(iss=f"{idp.issuer}/"),
    "iss in upper case": lambda idp: idp.logout_token(iss=idp.issuer.upper()),
    "iss a list": lambda idp: idp.logout_token(iss=[idp.issuer]),
    "iss missing": saying(iss=...),
    "iss null": saying(iss=None),
    "aud another": saying(aud="another"),
    "aud others": saying(aud=["another", "one more"]),
    "aud of ours a part": saying(aud="shopping"),
    "aud in upper case": saying(aud="SHOP"),
    "aud none": saying(aud=[]),
    "aud missing": saying(aud=...),
    "aud null": saying(aud=None),
    "aud an object": saying(aud={CLIENT_ID: True}),
    "aud with a number": saying(aud=[CLIENT_ID, 1]),
    "aud in a list in a list": saying(aud=[[CLIENT_ID]]),
    "iat missing": saying(iat=...),
    "iat null": saying(iat=None),
    "iat a text": saying(iat=str(NOW)),
    "iat true": saying(iat=True),
    "iat a list": saying(iat=[NOW]),
    "iat old": saying(iat=NOW - 331, exp=NOW + 3600),
    "iat of the future": saying(iat=NOW + 31),
    "iat below zero": saying(iat=-1),
    "iat in milliseconds": saying(iat=NOW * 1000, exp=NOW * 1000 + 120_000),
    "iat beyond all numbers": saying(iat=10**400),
    "exp missing": saying(exp=...),
    "exp null": saying(exp=None),
    "exp a text": saying(exp="never"),
    "exp false": saying(exp=False),
    "exp over": saying(iat=NOW - 60, exp=NOW - 30),
    "exp below zero": saying(exp=-1),
    "exp beyond all numbers": saying(exp=10**400),
    "nbf of the future": saying(nbf=NOW + 31),
    "nbf a text": saying(nbf="now"),
    "nbf null": saying(nbf=None),
    "nbf true": saying(nbf=True),
    "jti missing": saying(jti=...),
    "jti null": saying(jti=None),
    "jti empty": saying(jti=""),
    "jti a number": saying(jti=1),
    "jti too long": saying(jti="j" * 513),
    "events missing": saying(events=...),
    "events null": saying(events=None),
    "events none": saying(events={}),
    "events a list": saying(events=[EVENT]),
    "events a text": saying(events=EVENT),
    "events another": saying(events={"http://schemas.openid.net/secevent/x": {}}),
    "events by https": saying(events={EVENT.replace("http:", "https:"): {}}),
    "events one too many": saying(events={EVENT: {}, "http://schemas.openid.net/x": {}}),
    "events null inside": saying(events={EVENT: None}),
    "events true inside": saying(events={EVENT: True}),
    "events a list inside": saying(events={EVENT: []}),
    "a nonce": saying(nonce="n-0S6_WzA2Mj"),
    "a nonce that is null": saying(nonce=None),
    "neither sid nor sub": saying(sid=...),
    "sid null": saying(sid=None),
    "sid null beside sub": saying(sid=None, sub="u1"),
    "sid a number": saying(sid=1),
    "sid a list": saying(sid=["s1"]),
    "sid empty": saying(sid=""),
    "sid too long": saying(sid="s" * 513),
    "sid with a NUL": saying(sid="s1\0"),
    "sid with a line break": saying(sid="s1\n"),
    "sid with half a character": saying(sid="\ud800"),
    "sub null": saying(sub=None),
    "sub an object": saying(sub={"id": "u1"}),
    "sub empty beside sid": saying(sub=""),
    "sub a number alone": saying(sid=..., sub=7),
    "an ID token": saying(events=..., jti=..., nonce="n", auth_time=NOW, sub="u1"),
    "an access token": saying(events=..., scope="openid", client_id=CLIENT_ID, sub="u1"),
}
STRUCTURES: dict[str, Forge] = {
    "iss twice": raw(twice("iss", "https://another.example")),
    "events twice": raw(twice("events", {})),
    "sid twice": raw(twice("sid", "s2")),
    "a claim twice inside": raw(
        lambda issuer: spelled(claims(issuer)).replace(b'logout": {}', b'logout": {"a": 1, "a": 2}')
    ),
    "a payload that is a list": raw(b"[]"),
    "a payload that is a text": raw(b'"logout"'),
    "a payload that is null": raw(b"null"),
    "a payload that is no JSON": raw(b"sid=s1"),
    "a payload with NaN": raw(lambda issuer: spelled(claims(issuer, x=float("nan")))),
    "a payload with more behind it": raw(lambda issuer: spelled(claims(issuer)) + b"{}"),
    "a payload with a byte order mark": raw(
        lambda issuer: b"\xef\xbb\xbf" + spelled(claims(issuer))
    ),
    "a payload in UTF-16": raw(lambda issuer: spelled(claims(issuer)).decode().encode("utf-16")),
    "a payload that is no UTF-8": raw(lambda issuer: spelled(claims(issuer)) + b"\xff"),
    "a payload that is deep": raw(
        lambda issuer: spelled(claims(issuer))[:-1] + b', "x": ' + b"[" * 2000 + b"]" * 2000 + b"}"
    ),
    "a payload of a number too long": raw(
        lambda issuer: spelled(claims(issuer))[:-1] + b', "x": ' + b"9" * 5000 + b"}"
    ),
    "a JWT in a JWT": lambda idp: RS256.sign(idp.logout_token().encode(), RS256.header(cty="JWT")),
    "a JWT as the event": lambda idp: idp.logout_token(events={EVENT: idp.logout_token()}),
    "a JWE": altered(a_jwe),
    "two parts": altered(lambda parts: ".".join(parts[:2])),
    "four parts": altered(lambda parts: ".".join([*parts, parts[2]])),
    "a part that is empty": altered(lambda parts: f"{parts[0]}..{parts[2]}"),
    "a JWS in general JSON": altered(general_json),
    "a JWS in flattened JSON": altered(flattened_json),
    "white space before it": altered(lambda parts: " " + ".".join(parts)),
    "a line break after it": altered(lambda parts: ".".join(parts) + "\n"),
    "a line break in it": altered(lambda parts: ".\n".join(parts)),
    "the other base64": altered(lambda parts: f"{parts[0]}.{parts[1]}.+/+/"),
    "a signature of 4n + 1 characters": altered(lambda parts: f"{parts[0]}.{parts[1]}.AAAAA"),
    "a header of 4n + 1 characters": altered(lambda parts: f"AAAAA.{parts[1]}.{parts[2]}"),
    "a payload of 4n + 1 characters": raw_part("AAAAA"),
    "a payload with spare bits": raw_part(encoded(b'{"a": 1}')[:-1] + "R"),
    "digits of another script": altered(lambda parts: ".".join(parts).replace("1", "\u0661")),
    "a bearer": altered(lambda parts: "Bearer " + ".".join(parts)),
    "a session token of ours": no_jwt("sgs_" + "A" * 56),
    "nothing but dots": no_jwt(".."),
    "a NUL": no_jwt("\0"),
    "huge": lambda idp: idp.logout_token(x="x" * 16_384),
    "huge and nothing": no_jwt("A" * 60_000),
}
FORGED = SIGNATURES | KEYS | HEADERS | CLAIMS | STRUCTURES


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_logout_token_is_refused_and_ends_nothing(rig: Rig, name: str) -> None:
    sessions = [
        await rig.begin(provider_session_id=session_id, provider_subject="u1")
        for session_id in ("s1", "s2")
    ]

    reply = await rig.post(FORGED[name](rig.idp))

    assert reply.status == 400, reply.text
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.body.keys() == {"error", "error_description"}
    assert reply.body["error"] == "invalid_request"
    assert rig.counted == [("idp", "invalid")]
    assert all([await rig.lives(session_id) for session_id in sessions])


async def test_the_table_is_not_forged_itself(rig: Rig) -> None:
    """What each row forges would pass if it were not forged."""
    for signer in (RS256, PS256, ES256, EDDSA):
        assert (await rig.post(headed(signer)(rig.idp))).status == 200
    assert (await rig.post(saying()(rig.idp))).status == 200
    assert (await rig.post(raw(lambda issuer: spelled(claims(issuer)))(rig.idp))).status == 200
    assert (await rig.post(altered(".".join)(rig.idp))).status == 200


@pytest.mark.parametrize("member", ["jku", "x5u"])
async def test_an_address_of_keys_in_the_header_is_never_called(rig: Rig, member: str) -> None:
    async with identity_provider(STRANGER) as thief:
        forged = STRANGER.sign(
            claims(rig.idp.issuer),
            STRANGER.header(**{member: thief.jwks_uri, "kid": RS256.kid}),
        )

        reply = await rig.post(forged)

        assert reply.status == 400
        assert thief.asked == []
        assert rig.idp.asked == ["/jwks"]


# --- Anything at all


@pytest.fixture(scope="module")
def offline() -> IdentityProvider:
    """A provider without a server: its keys are handed over."""
    return IdentityProvider("https://id.example", [RS256, PS256, ES256, EDDSA], keys())


async def read(idp: IdentityProvider, logout_token: str) -> Logout | None:
    async def source() -> bytes:
        return spelled(idp.jwks())

    try:
        return await tokens_of(idp, FakeClock(), source=source).read(logout_token)
    except BadLogoutToken:
        return None


_characters = st.sampled_from('ABCxyz019-_.=+/ \n{}"\0é')


@settings(max_examples=150, deadline=None)
@given(st.data())
async def test_a_token_with_anything_changed_is_refused(
    offline: IdentityProvider, data: st.DataObject
) -> None:
    right = offline.logout_token(data.draw(st.sampled_from([RS256, ES256, EDDSA])))
    at = data.draw(st.integers(0, 9999)) % len(right)  # a token's length differs now and then
    width = data.draw(st.integers(0, 4))
    put = data.draw(st.text(_characters, max_size=4))
    changed = right[:at] + put + right[at + width :]

    assert (await read(offline, changed) is not None) == (changed == right)


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
async def test_whatever_a_provider_signs_is_read_or_refused(
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
async def test_whatever_a_header_says_is_read_or_refused(
    offline: IdentityProvider, header: dict[str, Any]
) -> None:
    signed = EDDSA.sign(claims(offline.issuer), EDDSA.header(**header))

    assert (await read(offline, signed) is not None) == (header.keys() <= {"x"})


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_.-]{0,60}"))
async def test_whatever_is_sent_for_a_token_is_refused(
    offline: IdentityProvider, text: str
) -> None:
    assert await read(offline, text) is None
