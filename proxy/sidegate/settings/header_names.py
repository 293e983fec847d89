"""Header names that settings may not use, because HTTP, a gateway or Sidegate uses them itself."""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final, TypeVar

_Place = TypeVar("_Place")

_READ_ELSEWHERE: Final = "must be another header: another setting reads this one"
_FRAMING: Final = "must be another header: HTTP itself uses this one for the connection or the body"
_HTTP: Final = "must be another header: HTTP servers, clients and caches act on this one"
_GATEWAY: Final = "must be another header: gateways and Sidegate state the request in this one"
_ANSWER: Final = "must be another header: gateways act on this one in an answer of Sidegate"

# The names that each sentence refuses. Not refused: names in which other gateways state a user,
# such as Remote-User, X-Forwarded-User and X-WEBAUTH-USER.
_NAMES: Final[Mapping[str, str]] = {
    _READ_ELSEWHERE: """
        Authorization Cookie Sec-WebSocket-Protocol User-Agent Accept-Language
    """,
    _FRAMING: """
        Connection Content-Encoding Content-Length Content-Range Content-Type Expect HTTP2-Settings
        Host Keep-Alive Max-Forwards Proxy Proxy-Authenticate Proxy-Authorization Proxy-Connection
        Sec-WebSocket-Accept Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Version
        TE Trailer Transfer-Encoding Upgrade
    """,
    _HTTP: """
        Accept-Ranges Access-Control-Request-Headers Access-Control-Request-Method Age Allow Alt-Svc
        Authentication-Info Cache-Control Clear-Site-Data Content-Disposition Content-Language
        Content-Location Content-Security-Policy Cookie2 Date ETag Expires If-Match
        If-Modified-Since If-None-Match If-Range If-Unmodified-Since Last-Modified Link Location
        Origin Pragma Range Referer Refresh Retry-After Server Set-Cookie Set-Cookie2
        Strict-Transport-Security Vary Via Warning WWW-Authenticate
    """,
    _GATEWAY: """
        Forwarded X-Client-IP X-Forwarded X-Forwarded-By X-Forwarded-For X-Forwarded-Host
        X-Forwarded-Method X-Forwarded-Path X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Proto
        X-Forwarded-Protocol X-Forwarded-Scheme X-Forwarded-Server X-Forwarded-Ssl X-Forwarded-Uri
        X-HTTP-Method-Override X-Original-For X-Original-Host X-Original-Method X-Original-Proto
        X-Original-Uri X-Original-URL X-Real-IP X-Request-Id X-Rewrite-URL X-Scheme
    """,
    _ANSWER: """
        X-Accel-Buffering X-Accel-Charset X-Accel-Expires X-Accel-Limit-Rate X-Accel-Redirect
        X-Auth-Source X-Auth-Status X-Envoy-Auth-Headers-To-Remove X-Envoy-Expected-Rq-Timeout-Ms
        X-Sendfile
    """,
}

# The beginnings of names that clients cannot choose: browsers and gateways set or remove them. An
# identity header may have one, since the gateway takes it from Sidegate.
_FAMILIES: Final[Mapping[str, str]] = {
    "proxy-": _FRAMING,
    "sec-websocket-": _FRAMING,
    "access-control-": _HTTP,
    "x-forwarded-": _GATEWAY,
    "x-original-": _GATEWAY,
    "x-accel-": _ANSWER,
    "x-envoy-": _ANSWER,
}

# In these, gateways state the client's certificate, which sessions may be bound to.
_CERTIFICATES: Final = frozenset(
    {
        "x-forwarded-client-cert",
        "x-forwarded-tls-client-cert",
        "x-forwarded-tls-client-cert-info",
    }
)


def fold(name: str) -> str:
    """Return a name as many applications read it: without case, and with equal separators."""
    return re.sub(r"[^a-z0-9]", "-", name.lower())


_RESERVED: Final = {fold(name): hint for hint, text in _NAMES.items() for name in text.split()}


def check_identity_name(name: str) -> str:
    """Return `name`. Raise ValueError with the reason if it cannot be an identity header."""
    hint = _RESERVED.get(fold(name))
    if hint is not None:
        raise ValueError(hint)
    return name


def check_client_name(name: str) -> str:
    """Return `name`. Raise ValueError with the reason if it cannot be a header of clients."""
    folded = check_identity_name(fold(name))
    for start, hint in _FAMILIES.items():
        if folded.startswith(start) and folded not in _CERTIFICATES:
            raise ValueError(hint)
    return name


def find_equal_names(names: Sequence[tuple[_Place, str]]) -> Mapping[_Place, _Place]:
    """Return the places whose name is that of an earlier place, with the first such place."""
    equal: dict[_Place, _Place] = {}
    for (place, name), (other, other_name) in combinations(names, 2):
        if fold(name) == fold(other_name):
            equal.setdefault(other, place)
    return equal
