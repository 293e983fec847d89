"""Requests that try to get through the gate, with their results: raw bytes and verdicts.

`ROUTE` is replaced by the route of a gateway protocol; every row is the same for all of them.
"""

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    EXPIRED,
    FORGED,
    IDLE,
    NEVER_ISSUED,
    REUSED,
    REVOKED,
    bearer,
    build_request,
    cookie,
)

ROUTE: Final = "{check}"
MARKER: Final = b"zebra"
"""Part of every line that must appear neither in a response nor in a log."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A request with its expected status, counted reason and user.

    No reason: it is not valid HTTP, and not counted as a check.
    """

    name: str
    raw: bytes
    status: int
    reason: str | None = None
    user: str | None = None
    looks_up: bool = False  # before it is denied as ambiguous

    def build_for(self, route: str) -> bytes:
        return self.raw.replace(ROUTE.encode(), route.encode())


def _build(*lines: bytes, method: bytes = b"GET", query: str = "") -> bytes:
    return build_request(*lines, target=ROUTE + query, method=method)


def _allowed(
    user: str, name: str, *lines: bytes, method: bytes = b"GET", query: str = ""
) -> Attack:
    return Attack(name, _build(*lines, method=method, query=query), 200, "ok", user)


def _denied(
    reason: str, name: str, *lines: bytes, method: bytes = b"GET", query: str = ""
) -> Attack:
    return Attack(name, _build(*lines, method=method, query=query), 401, reason)


def _looked_up(name: str, *lines: bytes) -> Attack:
    """Return a request that is ambiguous because both of its cookies open a session."""
    return Attack(name, _build(*lines), 401, "ambiguous", looks_up=True)


def _bad_request(name: str, raw: bytes) -> Attack:
    return Attack(name, raw, 400)


A: Final = ALICE.text.encode()
B: Final = BOB.text.encode()
_changed: Final = A[:-1] + (b"A" if A[-1:] != b"A" else b"B")
_first_as_percent: Final = b"%%%02X" % A[0] + A[1:]
_first_as_octal: Final = b"\\%03o\\%03o" % (A[0], A[1]) + A[2:]
_cookie_start: Final = b"__Host-session="
JWT: Final = b"eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"

BEARER: Final = (
    _allowed("alice", "a bearer token", bearer(A)),
    _allowed("alice", "a scheme in lower case", b"Authorization: bearer " + A),
    _allowed("alice", "everything in capitals", b"AUTHORIZATION: BEARER " + A),
    _allowed("alice", "several blanks after the scheme", b"Authorization: Bearer   " + A),
    _allowed("alice", "blanks around the value", b"Authorization: \t Bearer " + A + b" \t "),
    _allowed("alice", "the same token as bearer and cookie", bearer(A), cookie(A)),
    _allowed("alice", "the application's JWT beside the cookie", bearer(JWT), cookie(A)),
    _allowed("alice", "another scheme beside the cookie", b"Authorization: Basic YTpi", cookie(A)),
    _allowed("alice", "junk as bearer beside the cookie", bearer(b"x"), cookie(A)),
    _allowed("alice", "an empty bearer beside the cookie", b"Authorization: Bearer", cookie(A)),
    _allowed("alice", "another deployment's bearer beside the cookie", bearer(FORGED), cookie(A)),
    _allowed("alice", "a bearer beside another deployment's cookie", bearer(A), cookie(FORGED)),
    _allowed("alice", "a bearer beside a junk cookie", bearer(A), cookie(b"junk")),
    _denied("missing", "no credential"),
    _denied("missing", "an empty Authorization", b"Authorization:"),
    _denied("missing", "another scheme", b"Authorization: Basic YTpi"),
    _denied("missing", "another scheme with a token", b"Authorization: Token " + A),
    _denied("missing", "a token without a scheme", b"Authorization: " + A),
    _denied("missing", "a scheme with a colon", b"Authorization: Bearer: " + A),
    _denied("missing", "a scheme without a blank before the token", b"Authorization: Bearer" + A),
    _denied("missing", "Proxy-Authorization", b"Proxy-Authorization: Bearer " + A),
    _denied("missing", "a header that is not configured", b"X-Auth-Token: " + A),
    _denied("missing", "an underscore alias", b"Authorization_: Bearer " + A),
    _denied("missing", "a token in the query", query="?access_token=" + ALICE.text),
    _denied("malformed", "a scheme without a token", b"Authorization: Bearer"),
    _denied("malformed", "a tab after the scheme", b"Authorization: Bearer\t" + A),
    _denied("malformed", "a tab and a blank after the scheme", b"Authorization: Bearer \t" + A),
    _denied("malformed", "the application's JWT alone", bearer(JWT)),
    _denied("forged", "two tokens of other deployments", bearer(FORGED), cookie(_changed)),
    _denied("malformed", "a scheme and a blank", b"Authorization: Bearer "),
    _denied("malformed", "two bearers joined by a comma", bearer(A) + b", Bearer " + B),
    _denied("malformed", "the same bearer twice, joined by a comma", bearer(A) + b", Bearer " + A),
    _denied("malformed", "two tokens after one scheme", bearer(A) + b" " + B),
    _denied("malformed", "a quoted token", bearer(b'"' + A + b'"')),
    _denied("malformed", "a token with a parameter", bearer(A) + b";q=1"),
    _denied("ambiguous", "two bearers of two users", bearer(A), bearer(B)),
    _denied("ambiguous", "a second bearer that is empty", bearer(A), bearer(b"")),
    _denied("ambiguous", "a second bearer after a tab", bearer(A), b"Authorization: Bearer\t" + B),
    _denied("ambiguous", "the same bearer twice", bearer(A), bearer(A)),
    _denied("ambiguous", "another scheme and a bearer", b"Authorization: Basic YTpi", bearer(A)),
    _denied("ambiguous", "two lines of other schemes", b"Authorization: Basic YTpi", bearer(JWT)),
    _denied("ambiguous", "two lines beside a cookie", bearer(JWT), bearer(b"x"), cookie(A)),
    _denied("ambiguous", "a bad bearer before a good cookie", bearer(NEVER_ISSUED), cookie(A)),
    _denied("ambiguous", "a bearer of one user, a cookie of another", bearer(A), cookie(B)),
)

TOKENS: Final = (
    _denied("malformed", "one character more", bearer(A + b"x")),
    _denied("malformed", "one character less", bearer(A[:-1])),
    _denied("malformed", "the token without its beginning", bearer(A[4:])),
    _denied("malformed", "capitals", bearer(A.upper())),
    _denied("malformed", "padding", bearer(A + b"=")),
    _denied("malformed", "a character percent-encoded", bearer(_first_as_percent)),
    _denied("malformed", "the other base64 alphabet", bearer(b"sgw_" + b"+/" * 28)),
    _denied("malformed", "encoded once more", bearer(urlsafe_b64encode(A))),
    _denied("malformed", "bytes that are no UTF-8", bearer(b"\xe9\xff")),
    _denied("malformed", "a Unicode blank", bearer(b"\xc2\xa0" + A)),
    _denied("malformed", "a full-width letter", bearer(b"\xef\xbd\x93gw_" + A[4:])),
    _denied("malformed", "four thousand characters", bearer(b"a" * 4000)),
    _denied("malformed", "SQL", bearer(b"' OR '1'='1")),
    _denied("malformed", "a delimiter and more", bearer(A + b"|b.example")),
    _denied(
        "malformed",
        "the digest instead of the token",
        bearer(sha256(A).hexdigest().encode()),
    ),
    _denied("forged", "letters in lower case", bearer(A.lower())),
    _denied("forged", "the last character changed", bearer(_changed)),
    _denied("forged", "another type's letter", bearer(b"sgv" + A[3:])),
    _denied("forged", "another deployment's token", bearer(FORGED)),
    _denied("forged", "another key's id", bearer(b"sgw_" + b"A" + A[5:])),
    _denied("unknown", "a token never issued", bearer(NEVER_ISSUED)),
    _denied("expired", "an expired session", bearer(EXPIRED)),
    _denied("idle", "an idle session", bearer(IDLE)),
    _denied("revoked", "a revoked session", bearer(REVOKED)),
    _denied("reused", "a token rotated out", bearer(REUSED)),
)

COOKIES: Final = (
    _allowed("alice", "the session cookie", cookie(A)),
    _allowed(
        "alice", "the session cookie among others", b"Cookie: a=1; " + _cookie_start + A + b"; b=2"
    ),
    _allowed(
        "alice",
        "cookies without blanks between them",
        b"Cookie: a=1;" + _cookie_start + A + b";b=2",
    ),
    _allowed("alice", "the session cookie on a second line", b"Cookie: a=1", cookie(A)),
    _allowed("alice", "the same cookie twice", cookie(A) + b"; " + _cookie_start + A),
    _allowed(
        "alice", "broken JSON in another cookie", b'Cookie: g={"i_l":0}; ' + _cookie_start + A
    ),
    _allowed("alice", "a closed quote in another cookie", b'Cookie: p="x y"; ' + _cookie_start + A),
    _allowed(
        "alice",
        "escapes in a quote in another cookie",
        rb'Cookie: p="\"a\054"; ' + _cookie_start + A,
    ),
    _allowed("alice", "a nameless cookie first", b"Cookie: =x; " + _cookie_start + A),
    _allowed("alice", "a cookie that is only a name", b"Cookie: x; " + _cookie_start + A),
    _allowed("alice", "empty pairs", b"Cookie: ;; ; " + _cookie_start + A + b";"),
    _allowed(
        "alice", "the same name after U+2000", cookie(A) + b"; \xe2\x80\x80" + _cookie_start + B
    ),
    _allowed("alice", "the same name after U+00A0", cookie(A) + b"; \xc2\xa0" + _cookie_start + B),
    _allowed("alice", "the same name in other case", cookie(A) + b"; __host-session=" + B),
    _allowed(
        "alice",
        "nine kilobytes of other cookies",
        b"Cookie: c=" + b"x" * 9000 + b"; " + _cookie_start + A,
    ),
    _allowed(
        "alice",
        "sixty kilobytes of other cookies",
        b"Cookie: c=" + b"x" * 60_000 + b"; " + _cookie_start + A,
    ),
    _denied("missing", "a name after 0x85", b"Cookie: \x85" + _cookie_start + A),
    _denied("missing", "a name without its prefix", b"Cookie: session=" + A),
    _denied("missing", "a quoted name", b'Cookie: "__Host-session"=' + A),
    _denied("missing", "blanks around the equals sign", b"Cookie: __Host-session =  " + A),
    _denied("missing", "cookie lines joined by a comma", b"Cookie: a=1, " + _cookie_start + A),
    _denied("missing", "the session cookie in another header", b"Cookie2: " + _cookie_start + A),
    _denied("malformed", "two cookies joined by a comma", cookie(A) + b"," + _cookie_start + B),
    _denied("malformed", "an empty cookie", cookie(b"")),
    _denied("malformed", "junk", cookie(b"!!!not-base64")),
    _denied("malformed", "octal escapes", cookie(b'"' + _first_as_octal + b'"')),
    _denied("malformed", "percent escapes", cookie(_first_as_percent)),
    _looked_up("two values on one line", cookie(A) + b"; " + _cookie_start + B),
    _looked_up("two values on two lines", cookie(A), cookie(B)),
    _denied("ambiguous", "three values", cookie(A), cookie(NEVER_ISSUED), cookie(EXPIRED)),
    _allowed("alice", "a second one that is empty", cookie(A) + b"; __Host-session"),
    _allowed("alice", "a second one that is junk", cookie(b"junk") + b"; " + _cookie_start + A),
    _allowed("alice", "one of another deployment first", cookie(FORGED), cookie(A)),
    _allowed("alice", "a stale one first", cookie(EXPIRED), cookie(A)),
    _allowed("alice", "a stale one last", cookie(A), cookie(REVOKED)),
    _allowed("alice", "a quoted one beside it", cookie(b'"x; y"'), cookie(A)),
    _denied("expired", "two stale ones", cookie(EXPIRED), cookie(NEVER_ISSUED)),
    _denied(
        "ambiguous",
        "a cookie inside an open quote",
        b'Cookie: $Version=1; p="x; ' + _cookie_start + A + b'; y"',
    ),
    _denied(
        "ambiguous",
        "a cookie inside an open quote with an escape",
        rb'Cookie: p="x\"; ' + _cookie_start + A + b'; y"',
    ),
    _allowed("alice", "an open quote after the cookie", cookie(A) + b'; p="x'),
    _allowed("alice", "an open quote before the cookie", b'Cookie: m="a; ' + _cookie_start + A),
    _allowed(
        "alice",
        "quotes around other cookies",
        b'Cookie: p="x; q"; ' + _cookie_start + A + b'; r="z"',
    ),
)

SPOOFS: Final = (
    _allowed("alice", "an identity header from the client", bearer(A), b"X-Auth-User: root"),
    _allowed(
        "alice",
        "an identity header with underscores",
        bearer(A),
        b"X_Auth_User: root",
        b"X-Auth_User: root",
    ),
    _allowed("alice", "an identity header with dots", bearer(A), b"X.Auth.User: root"),
    _allowed(
        "alice",
        "Connection with headers to drop",
        bearer(A),
        b"Connection: keep-alive, X-Auth-User, Cookie",
    ),
    _allowed("alice", "a status header", bearer(A), b"X-Auth-Status: 503", b"Status: 204"),
    _allowed("alice", "a method override", bearer(A), b"X-HTTP-Method-Override: DELETE"),
    _allowed(
        "alice",
        "every URI header at once",
        bearer(A),
        b"X-Original-URI: /a",
        b"X-Forwarded-Uri: /b",
        b"X-Original-URL: http://c/",
        b"X-Rewrite-Url: /d",
        b"X-Envoy-Original-Path: /e",
    ),
    _denied(
        "missing",
        "identity headers only",
        b"X-Auth-User: root",
        b"X-Forwarded-Uri: /public",
        b"Via: 1.1 x",
    ),
    _denied("missing", "a trusted address", b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: ::1"),
    _denied("missing", "no user agent", b"User-Agent:"),
    _denied("missing", "a redirect target", b"X-Forwarded-Host: evil.test", query="?rd=//e"),
    _denied("unknown", "an XMLHttpRequest header", b"X-Requested-With: x", bearer(NEVER_ISSUED)),
)

METHODS: Final = (
    *(
        _allowed("alice", f"{method} with a token", bearer(A), method=method.encode())
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "MKCOL")
    ),
    _allowed("alice", "OPTIONS with a token", bearer(A), method=b"OPTIONS"),
    _denied("missing", "a preflight", b"Origin: https://evil.test", method=b"OPTIONS"),
    _denied("missing", "PROPFIND without a token", method=b"PROPFIND"),
    Attack("an unknown method", _build(bearer(A), b"Upgrade: x", method=b"ZEBRA"), 501),
    Attack("a method in lower case", _build(bearer(A), b"Upgrade: x", method=b"get"), 501),
    _bad_request("a method that is no token", _build(bearer(A), method=b"ZE(BRA")),
)

WIRE: Final = (
    _allowed("alice", "a query with options", bearer(A), query="?mode=optional&status=200"),
    _denied("missing", "a query with a bypass", query="?mode=bypass&X-Auth-User=root"),
    Attack(
        "HTTP/1.0 without Host",
        b"GET %s HTTP/1.0\r\n%s\r\n\r\n" % (ROUTE.encode(), bearer(A)),
        200,
        "ok",
        "alice",
    ),
    _allowed(
        "alice",
        "a WebSocket's handshake",
        bearer(A),
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    _allowed(
        "alice",
        "an upgrade to HTTP/2",
        bearer(A),
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
    ),
    _allowed("alice", "an unknown expectation", bearer(A), b"Expect: a-miracle"),
    _allowed("alice", "an empty body", bearer(A), b"Content-Length: 0", method=b"POST"),
    _bad_request("NUL in a value", _build(bearer(A + b"\0"), b"X: " + MARKER)),
    _bad_request("NUL in a line of its own", _build(bearer(A), b"X-Zebra: zebra\0zebra")),
    _bad_request("a control character in a value", _build(bearer(A + b"\x01" + MARKER))),
    _bad_request(
        "a control character in a cookie", _build(b"Cookie: zebra=\x01; " + _cookie_start + A)
    ),
    _bad_request("a vertical tab", _build(b"Authorization: Bearer\x0b" + A)),
    _bad_request("a bare carriage return", _build(bearer(A) + b"\rX-Zebra: 1")),
    _bad_request("a folded line", _build(b"X-Zebra: zebra", b"Authorization: Bearer", b" " + A)),
    _bad_request(
        "a folded first line", build_request(bearer(A), target=ROUTE).replace(b"Host", b" Host", 1)
    ),
    _bad_request("a space before the colon", _build(b"Authorization : Bearer " + A)),
    _bad_request("a line without a colon", _build(bearer(A), b"zebra")),
    _bad_request("a line without a name", _build(bearer(A), b": zebra")),
    _bad_request("a name with a blank", _build(bearer(A), b"X Zebra: 1")),
    _bad_request("a name outside ASCII", _build(bearer(A), b"X-Z\xe9bra: zebra")),
    _bad_request("bare line feeds", _build(bearer(A)).replace(b"\r\n", b"\n")),
    _bad_request("one bare line feed", _build(bearer(A), b"X-Zebra: 1\nX-Zebra: 2")),
    _bad_request("two hosts", _build(bearer(A), b"Host: zebra.test")),
    _bad_request("no host", _build(bearer(A)).replace(b"Host: gateway.test\r\n", b"")),
    _bad_request("HTTP/0.9", b"GET %s\r\n\r\n" % ROUTE.encode()),
    _bad_request("HTTP/2.0", _build(bearer(A)).replace(b"HTTP/1.1", b"HTTP/2.0")),
    _bad_request("HTTP/1.9", _build(bearer(A)).replace(b"HTTP/1.1", b"HTTP/1.9")),
    _bad_request("no protocol", _build(bearer(A)).replace(b"HTTP/1.1", b"ZEBRA/1.1")),
    _bad_request("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _bad_request("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + MARKER),
    _bad_request("a PROXY line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + _build(bearer(A))),
    _bad_request("a target outside ASCII", _build(bearer(A), query="?z\xe9bra")),
    _bad_request("a target with a blank", _build(bearer(A), query="?a zebra")),
    _bad_request("a target of forty kilobytes", _build(bearer(A), query="?" + "zebra" * 8000)),
    _bad_request(
        "a field of seventy kilobytes", _build(bearer(A), b"X-Zebra: " + b"zebra" * 14_000)
    ),
    _bad_request("a cookie of seventy kilobytes", _build(cookie(A) + b"; z=" + b"zebra" * 14_000)),
    _bad_request(
        "three hundred lines", _build(bearer(A), *(b"X-Zebra-%d: 1" % n for n in range(300)))
    ),
    _bad_request("a signed length", _build(bearer(A), b"Content-Length: +5") + b"zebra"),
    _bad_request("a negative length", _build(bearer(A), b"Content-Length: -5") + b"zebra"),
    _bad_request("a length in hexadecimal", _build(bearer(A), b"Content-Length: 0x5") + b"zebra"),
    _bad_request("a list of lengths", _build(bearer(A), b"Content-Length: 1, 1") + b"z"),
    _bad_request(
        "two lengths", _build(bearer(A), b"Content-Length: 5", b"Content-Length: 6") + b"zebra"
    ),
    _bad_request(
        "a length and chunks",
        _build(bearer(A), b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    _bad_request("an unknown encoding", _build(bearer(A), b"Transfer-Encoding: xchunked")),
    _bad_request(
        "chunks twice",
        _build(bearer(A), b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    ),
)

ATTACKS: Final = (*BEARER, *TOKENS, *COOKIES, *SPOOFS, *METHODS, *WIRE)

UNKNOWN_TARGETS: Final = (
    "/",
    "//auth-request",
    "//evil.test/auth-request",
    "/auth-request/",
    "/auth-request/x",
    "/auth-request%00",
    "/auth-request%3F",
    "/auth-request;x=1",
    "/auth-request#x",
    "/auth-request.",
    "/Auth-Request",
    "/auth%2drequest",
    "/./auth-request",
    "/x/../auth-request",
    "/forward-auth\\",
    "/forward-auth/../auth-request",
    "/ext-authzz",
    "/ext-authz%2fapp",
    "/%65xt-authz/app",
    "/metrics",
    "/livez",
    "/readyz",
    "/openapi.json",
    "/v1/sessions",
    "/oauth2/introspect",
    "/favicon.ico",
)
"""Targets that get 404 with any credential."""
