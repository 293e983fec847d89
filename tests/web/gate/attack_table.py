"""Requests that are meant to get in, and what becomes of each: rows of raw bytes and verdicts.

`CHECK` stands for the path that is asked; every row holds for every gateway protocol.
"""

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tests.web.gate.gate_rig import (
    ALICE,
    BOB,
    EXPIRED,
    FORGED,
    IDLE,
    NEVER_ISSUED,
    REUSED,
    REVOKED,
    bearer,
    cookie,
    request,
)

CHECK: Final = "{check}"
MARK: Final = b"zebra"
"""Stands in every line that must not be repeated, neither to the client nor in a log."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What is sent, and what it gets: the status, why (as it is counted), and whose it is.

    No reason: it is not counted as a check, because it is not HTTP.
    """

    name: str
    raw: bytes
    status: int
    reason: str | None = None
    user: str | None = None

    def at(self, route: str) -> bytes:
        return self.raw.replace(CHECK.encode(), route.encode())


def _get(*lines: bytes, method: bytes = b"GET", query: str = "") -> bytes:
    return request(*lines, target=CHECK + query, method=method)


def _is(user: str, name: str, *lines: bytes, method: bytes = b"GET", query: str = "") -> Attack:
    return Attack(name, _get(*lines, method=method, query=query), 200, "ok", user)


def _no(reason: str, name: str, *lines: bytes, method: bytes = b"GET", query: str = "") -> Attack:
    return Attack(name, _get(*lines, method=method, query=query), 401, reason)


def _bad(name: str, raw: bytes) -> Attack:
    return Attack(name, raw, 400)


A: Final = ALICE.text.encode()
B: Final = BOB.text.encode()
_flipped: Final = A[:-1] + (b"A" if A[-1:] != b"A" else b"B")
_first_as_percent: Final = b"%%%02X" % A[0] + A[1:]
_first_as_octal: Final = b"\\%03o\\%03o" % (A[0], A[1]) + A[2:]
_own: Final = b"__Host-session="

BEARER: Final = (
    _is("alice", "a bearer token", bearer(A)),
    _is("alice", "a scheme in lower case", b"Authorization: bearer " + A),
    _is("alice", "everything in capitals", b"AUTHORIZATION: BEARER " + A),
    _is("alice", "several blanks after the scheme", b"Authorization: Bearer   " + A),
    _is("alice", "blanks round the value", b"Authorization: \t Bearer " + A + b" \t "),
    _is("alice", "the same bearer twice", bearer(A), bearer(A)),
    _is("alice", "the same token as bearer and cookie", bearer(A), cookie(A)),
    _is("alice", "a foreign scheme beside ours", b"Authorization: Basic YTpi", bearer(A)),
    _no("missing", "nothing at all"),
    _no("missing", "an empty Authorization", b"Authorization:"),
    _no("missing", "a foreign scheme", b"Authorization: Basic YTpi"),
    _no("missing", "a foreign scheme with our token", b"Authorization: Token " + A),
    _no("missing", "a token without a scheme", b"Authorization: " + A),
    _no("missing", "a scheme with a colon", b"Authorization: Bearer: " + A),
    _no("missing", "a scheme grown together with the token", b"Authorization: Bearer" + A),
    _no("missing", "the proxy's header", b"Proxy-Authorization: Bearer " + A),
    _no("missing", "a header nobody configured", b"X-Auth-Token: " + A),
    _no("missing", "an underscore alias", b"Authorization_: Bearer " + A),
    _no("missing", "a token in the query", query="?access_token=" + ALICE.text),
    _no("malformed", "a scheme without a token", b"Authorization: Bearer"),
    _no("malformed", "a scheme and a blank", b"Authorization: Bearer "),
    _no("malformed", "two bearers joined by a hop", bearer(A) + b", Bearer " + B),
    _no("malformed", "the same bearer twice, joined by a hop", bearer(A) + b", Bearer " + A),
    _no("malformed", "two tokens behind one scheme", bearer(A) + b" " + B),
    _no("malformed", "a quoted token", bearer(b'"' + A + b'"')),
    _no("malformed", "a token with a parameter", bearer(A) + b";q=1"),
    _no("ambiguous", "two bearers of two users", bearer(A), bearer(B)),
    _no("ambiguous", "a second bearer that is empty", bearer(A), bearer(b"")),
    _no("ambiguous", "a second bearer behind a tab", bearer(A), b"Authorization: Bearer\t" + B),
    _no("ambiguous", "a bad bearer before a good cookie", bearer(NEVER_ISSUED), cookie(A)),
    _no("ambiguous", "junk as bearer before a good cookie", bearer(b"x"), cookie(A)),
    _no("ambiguous", "a bearer of one user, a cookie of another", bearer(A), cookie(B)),
)

TOKENS: Final = (
    _no("malformed", "one character more", bearer(A + b"x")),
    _no("malformed", "one character less", bearer(A[:-1])),
    _no("malformed", "the token without its beginning", bearer(A[4:])),
    _no("malformed", "capitals", bearer(A.upper())),
    _no("malformed", "padding", bearer(A + b"=")),
    _no("malformed", "a character percent-encoded", bearer(_first_as_percent)),
    _no("malformed", "the other base64 alphabet", bearer(b"sgw_" + b"+/" * 28)),
    _no("malformed", "encoded once more", bearer(urlsafe_b64encode(A))),
    _no("malformed", "bytes that are no UTF-8", bearer(b"\xe9\xff")),
    _no("malformed", "a blank that only Unicode knows", bearer(b"\xc2\xa0" + A)),
    _no("malformed", "a full-width letter", bearer(b"\xef\xbd\x93gw_" + A[4:])),
    _no("malformed", "four thousand characters", bearer(b"a" * 4000)),
    _no("malformed", "SQL", bearer(b"' OR '1'='1")),
    _no("malformed", "a delimiter and more", bearer(A + b"|b.example")),
    _no(
        "malformed",
        "the digest instead of the token",
        bearer(sha256(A).hexdigest().encode()),
    ),
    _no("forged", "letters in lower case", bearer(A.lower())),
    _no("forged", "the last character changed", bearer(_flipped)),
    _no("forged", "another type's letter", bearer(b"sgv" + A[3:])),
    _no("forged", "another house's token", bearer(FORGED)),
    _no("forged", "another key's id", bearer(b"sgw_" + b"A" + A[5:])),
    _no("unknown", "a token never issued", bearer(NEVER_ISSUED)),
    _no("expired", "an expired session", bearer(EXPIRED)),
    _no("idle", "an idle session", bearer(IDLE)),
    _no("revoked", "a revoked session", bearer(REVOKED)),
    _no("reused", "a token rotated out", bearer(REUSED)),
)

COOKIES: Final = (
    _is("alice", "our cookie", cookie(A)),
    _is("alice", "our cookie among others", b"Cookie: a=1; " + _own + A + b"; b=2"),
    _is("alice", "our cookie without blanks between", b"Cookie: a=1;" + _own + A + b";b=2"),
    _is("alice", "our cookie on a second line", b"Cookie: a=1", cookie(A)),
    _is("alice", "the same cookie twice", cookie(A) + b"; " + _own + A),
    _is("alice", "broken JSON of somebody else", b'Cookie: g={"i_l":0}; ' + _own + A),
    _is("alice", "a closed quote of somebody else", b'Cookie: p="x y"; ' + _own + A),
    _is("alice", "escapes in a quote of somebody else", rb'Cookie: p="\"a\054"; ' + _own + A),
    _is("alice", "a nameless cookie first", b"Cookie: =x; " + _own + A),
    _is("alice", "a cookie that is only a name", b"Cookie: x; " + _own + A),
    _is("alice", "empty pairs", b"Cookie: ;; ; " + _own + A + b";"),
    _is("alice", "a namesake behind U+2000", cookie(A) + b"; \xe2\x80\x80" + _own + B),
    _is("alice", "a namesake behind U+00A0", cookie(A) + b"; \xc2\xa0" + _own + B),
    _is("alice", "a namesake in other case", cookie(A) + b"; __host-session=" + B),
    _is(
        "alice",
        "nine kilobytes of other cookies",
        b"Cookie: c=" + b"x" * 9000 + b"; " + _own + A,
    ),
    _is("alice", "sixty kilobytes of them", b"Cookie: c=" + b"x" * 60_000 + b"; " + _own + A),
    _no("missing", "a name behind 0x85", b"Cookie: \x85" + _own + A),
    _no("missing", "a name without its prefix", b"Cookie: session=" + A),
    _no("missing", "a quoted name", b'Cookie: "__Host-session"=' + A),
    _no("missing", "blanks round the equals sign", b"Cookie: __Host-session =  " + A),
    _no("missing", "cookie lines joined by a comma", b"Cookie: a=1, " + _own + A),
    _no("missing", "our cookie in another header", b"Cookie2: " + _own + A),
    _no("malformed", "two cookies joined by a comma", cookie(A) + b"," + _own + B),
    _no("malformed", "an empty cookie", cookie(b"")),
    _no("malformed", "junk", cookie(b"!!!not-base64")),
    _no("malformed", "octal escapes", cookie(b'"' + _first_as_octal + b'"')),
    _no("malformed", "percent escapes", cookie(_first_as_percent)),
    _no("ambiguous", "two values on one line", cookie(A) + b"; " + _own + B),
    _no("ambiguous", "two values on two lines", cookie(A), cookie(B)),
    _no("ambiguous", "an empty namesake", cookie(A) + b"; __Host-session"),
    _no("ambiguous", "a sandwich", b'Cookie: $Version=1; p="x; ' + _own + A + b'; y"'),
    _no("ambiguous", "an escaped sandwich", rb'Cookie: p="x\"; ' + _own + A + b'; y"'),
    _no("ambiguous", "an open quote behind", cookie(A) + b'; p="x'),
)

SPOOFS: Final = (
    _is("alice", "an identity of the client's own", bearer(A), b"X-Auth-User: root"),
    _is("alice", "with underscores", bearer(A), b"X_Auth_User: root", b"X-Auth_User: root"),
    _is("alice", "with dots", bearer(A), b"X.Auth.User: root"),
    _is("alice", "headers to drop", bearer(A), b"Connection: keep-alive, X-Auth-User, Cookie"),
    _is("alice", "another status", bearer(A), b"X-Auth-Status: 503", b"Status: 204"),
    _is("alice", "another method", bearer(A), b"X-HTTP-Method-Override: DELETE"),
    _is(
        "alice",
        "every URI header at once",
        bearer(A),
        b"X-Original-URI: /a",
        b"X-Forwarded-Uri: /b",
        b"X-Original-URL: http://c/",
        b"X-Rewrite-Url: /d",
        b"X-Envoy-Original-Path: /e",
    ),
    _no("missing", "only claims", b"X-Auth-User: root", b"X-Forwarded-Uri: /public", b"Via: 1.1 x"),
    _no("missing", "the address of a friend", b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: ::1"),
    _no("missing", "no user agent", b"User-Agent:"),
    _no("missing", "a browser that would follow", b"X-Forwarded-Host: evil.test", query="?rd=//e"),
    _no("unknown", "a script that would not", b"X-Requested-With: x", bearer(NEVER_ISSUED)),
)

METHODS: Final = (
    *(
        _is("alice", f"{method} with a token", bearer(A), method=method.encode())
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "MKCOL")
    ),
    _is("alice", "OPTIONS with a token", bearer(A), method=b"OPTIONS"),
    _no("missing", "a preflight", b"Origin: https://evil.test", method=b"OPTIONS"),
    _no("missing", "PROPFIND without a token", method=b"PROPFIND"),
    _bad("a method nobody knows", _get(bearer(A), method=b"ZEBRA")),
    _bad("a method in lower case", _get(bearer(A), method=b"get")),
)

WIRE: Final = (
    _is("alice", "a query that asks for less", bearer(A), query="?mode=optional&status=200"),
    _no("missing", "a query that asks for all", query="?mode=bypass&X-Auth-User=root"),
    Attack(
        "HTTP/1.0 without Host",
        b"GET %s HTTP/1.0\r\n%s\r\n\r\n" % (CHECK.encode(), bearer(A)),
        200,
        "ok",
        "alice",
    ),
    _is(
        "alice",
        "a WebSocket's handshake",
        bearer(A),
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    _is(
        "alice",
        "an upgrade to HTTP/2",
        bearer(A),
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
    ),
    _is("alice", "an expectation nobody knows", bearer(A), b"Expect: a-miracle"),
    _is("alice", "an empty body", bearer(A), b"Content-Length: 0", method=b"POST"),
    _bad("NUL in a value", _get(bearer(A + b"\0"), b"X: " + MARK)),
    _bad("NUL in a line of its own", _get(bearer(A), b"X-Zebra: zebra\0zebra")),
    _bad("a control character in a value", _get(bearer(A + b"\x01" + MARK))),
    _bad("a control character in a cookie", _get(b"Cookie: zebra=\x01; " + _own + A)),
    _bad("a vertical tab", _get(b"Authorization: Bearer\x0b" + A)),
    _bad("a bare carriage return", _get(bearer(A) + b"\rX-Zebra: 1")),
    _bad("a folded line", _get(b"X-Zebra: zebra", b"Authorization: Bearer", b" " + A)),
    _bad("a folded first line", request(bearer(A), target=CHECK).replace(b"Host", b" Host", 1)),
    _bad("a space before the colon", _get(b"Authorization : Bearer " + A)),
    _bad("a line without a colon", _get(bearer(A), b"zebra")),
    _bad("a line without a name", _get(bearer(A), b": zebra")),
    _bad("a name with a blank", _get(bearer(A), b"X Zebra: 1")),
    _bad("a name beyond ASCII", _get(bearer(A), b"X-Z\xe9bra: zebra")),
    _bad("bare line feeds", _get(bearer(A)).replace(b"\r\n", b"\n")),
    _bad("one bare line feed", _get(bearer(A), b"X-Zebra: 1\nX-Zebra: 2")),
    _bad("two hosts", _get(bearer(A), b"Host: zebra.test")),
    _bad("no host", _get(bearer(A)).replace(b"Host: gateway.test\r\n", b"")),
    _bad("HTTP/0.9", b"GET %s\r\n\r\n" % CHECK.encode()),
    _bad("HTTP/2.0", _get(bearer(A)).replace(b"HTTP/1.1", b"HTTP/2.0")),
    _bad("HTTP/1.9", _get(bearer(A)).replace(b"HTTP/1.1", b"HTTP/1.9")),
    _bad("no protocol", _get(bearer(A)).replace(b"HTTP/1.1", b"ZEBRA/1.1")),
    _bad("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _bad("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + MARK),
    _bad("a PROXY line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + _get(bearer(A))),
    _bad("a target beyond ASCII", _get(bearer(A), query="?z\xe9bra")),
    _bad("a target with a blank", _get(bearer(A), query="?a zebra")),
    _bad("a target of forty kilobytes", _get(bearer(A), query="?" + "zebra" * 8000)),
    _bad("a field of seventy kilobytes", _get(bearer(A), b"X-Zebra: " + b"zebra" * 14_000)),
    _bad("a cookie of seventy kilobytes", _get(cookie(A) + b"; z=" + b"zebra" * 14_000)),
    _bad("three hundred lines", _get(bearer(A), *(b"X-Zebra-%d: 1" % n for n in range(300)))),
    _bad("a signed length", _get(bearer(A), b"Content-Length: +5") + b"zebra"),
    _bad("a negative length", _get(bearer(A), b"Content-Length: -5") + b"zebra"),
    _bad("a length in hexadecimal", _get(bearer(A), b"Content-Length: 0x5") + b"zebra"),
    _bad("a list of lengths", _get(bearer(A), b"Content-Length: 1, 1") + b"z"),
    _bad("two lengths", _get(bearer(A), b"Content-Length: 5", b"Content-Length: 6") + b"zebra"),
    _bad(
        "a length and chunks",
        _get(bearer(A), b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    _bad("an unknown encoding", _get(bearer(A), b"Transfer-Encoding: xchunked")),
    _bad(
        "chunks twice",
        _get(bearer(A), b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    ),
)

ATTACKS: Final = (*BEARER, *TOKENS, *COOKIES, *SPOOFS, *METHODS, *WIRE)

STRAY_TARGETS: Final = (
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
    "http://gateway.test/auth-request",
    "http://evil.test/ext-authz/app",
    "/metrics",
    "/livez",
    "/readyz",
    "/openapi.json",
    "/v1/sessions",
    "/oauth2/introspect",
    "/favicon.ico",
)
"""Where the gate answers nobody, whatever they bring."""
