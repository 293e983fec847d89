"""The requests everybody is sent: what a gateway asks about a browser's request.

Ten header lines of a usual size; the session's cookie stands among those of other people.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid5

from tests.bench.sessions import NAMESPACE, Known

COOKIE = "__Host-session"

_OTHER_COOKIES = (
    "theme=dark; _ga=GA1.2.1284701967.1718204563; cookie_consent=necessary%2Cstatistics"
)
_MORE_COOKIES = "locale=de-CH; last_seen_banner=2025-11-20"


def subrequest(known: Known, *, path: str) -> str:
    """Return the whole request that asks `path` about the client of a session."""
    cookies = f"{_OTHER_COOKIES}; {COOKIE}={known.token.text}; {_MORE_COOKIES}"
    return _head(path, known, f"Cookie: {cookies}")


def bearing(known: Known, *, path: str) -> str:
    """Return the same request with the token as a bearer, for those who read no cookies."""
    return _head(
        path,
        known,
        f"Cookie: {_OTHER_COOKIES}; {_MORE_COOKIES}",
        f"Authorization: Bearer {known.token.text}",
    )


def carrying(known: Known, cookie: str, *, path: str) -> str:
    """Return the same request with a session cookie of somebody else's making."""
    return _head(path, known, f"Cookie: {_OTHER_COOKIES}; {cookie}; {_MORE_COOKIES}")


def _head(path: str, known: Known, *credentials: str) -> str:
    lines = (
        f"GET {path} HTTP/1.1",
        "Host: sidegate",
        f"User-Agent: {known.signals.user_agent}",
        f"Accept-Language: {known.signals.accept_language}",
        "Accept: application/json, text/plain, */*",
        "X-Original-Method: GET",
        f"X-Original-URI: /shop/orders/{known.number}?page=2&sort=newest",
        f"X-Real-IP: {known.signals.ip}",
        "X-Forwarded-Proto: https",
        f"X-Request-ID: {uuid5(NAMESPACE, str(known.number)).hex}",
        *credentials,
    )
    return "\r\n".join(lines) + "\r\n\r\n"


def creation(number: int, key: str) -> str:
    """Return a request to the admin API to create a session for a user of that number."""
    body = json.dumps({"user_id": f"user-{number}", "scopes": ["orders:read"], "ip": "203.0.113.9"})
    return f"{admin_head('/v1/sessions', key)}{len(body)}\r\n\r\n{body}"


def refreshment(token: str, key: str) -> str:
    """Return a request to the admin API to refresh a session."""
    body = json.dumps({"token": token})
    return f"{admin_head('/v1/refresh', key)}{len(body)}\r\n\r\n{body}"


def revocation(session_id: str, key: str) -> str:
    """Return a request to the admin API to revoke a session."""
    return f"{admin_head(f'/v1/sessions/{session_id}/revoke', key)}0\r\n\r\n"


def admin_head(path: str, key: str) -> str:
    """Return a request to the admin API up to, and without, the length of its body."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        "Content-Length: ",
    )
    return "\r\n".join(lines)


def written(texts: Iterable[str], path: Path) -> Path:
    """Write the texts as wrk's scripts read them, and return the path."""
    path.write_bytes("\0".join(texts).encode("ascii"))
    return path
