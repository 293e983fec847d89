"""The requests that are sent: the subrequest of a gateway, and requests to the admin API.

A subrequest has ten header lines of usual size, with the session cookie among other cookies.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid5

from tests.bench.sessions import NAMESPACE, KnownSession

COOKIE = "__Host-session"

_OTHER_COOKIES = (
    "theme=dark; _ga=GA1.2.1284701967.1718204563; cookie_consent=necessary%2Cstatistics"
)
_MORE_COOKIES = "locale=de-CH; last_seen_banner=2025-11-20"


def build_subrequest(session: KnownSession, *, path: str) -> str:
    """Return a complete subrequest to `path` with the cookie of a session."""
    cookies = f"{_OTHER_COOKIES}; {COOKIE}={session.token.text}; {_MORE_COOKIES}"
    return _head(path, session, f"Cookie: {cookies}")


def build_bearer_request(session: KnownSession, *, path: str) -> str:
    """Return the same request with a bearer token instead of the cookie."""
    return _head(
        path,
        session,
        f"Cookie: {_OTHER_COOKIES}; {_MORE_COOKIES}",
        f"Authorization: Bearer {session.token.text}",
    )


def build_cookie_request(session: KnownSession, cookie: str, *, path: str) -> str:
    """Return the same request with the session cookie of another product."""
    return _head(path, session, f"Cookie: {_OTHER_COOKIES}; {cookie}; {_MORE_COOKIES}")


def _head(path: str, session: KnownSession, *credentials: str) -> str:
    lines = (
        f"GET {path} HTTP/1.1",
        "Host: sidegate",
        f"User-Agent: {session.signals.user_agent}",
        f"Accept-Language: {session.signals.accept_language}",
        "Accept: application/json, text/plain, */*",
        "X-Original-Method: GET",
        f"X-Original-URI: /shop/orders/{session.number}?page=2&sort=newest",
        f"X-Real-IP: {session.signals.ip}",
        "X-Forwarded-Proto: https",
        f"X-Request-ID: {uuid5(NAMESPACE, str(session.number)).hex}",
        *credentials,
    )
    return "\r\n".join(lines) + "\r\n\r\n"


def build_create_request(number: int, key: str) -> str:
    """Return a request to the admin API that creates a session."""
    body = json.dumps({"user_id": f"user-{number}", "scopes": ["orders:read"], "ip": "203.0.113.9"})
    return f"{build_admin_head('/v1/sessions', key)}{len(body)}\r\n\r\n{body}"


def build_refresh_request(token: str, key: str) -> str:
    """Return a request to the admin API that refreshes a session."""
    body = json.dumps({"token": token})
    return f"{build_admin_head('/v1/refresh', key)}{len(body)}\r\n\r\n{body}"


def build_revoke_request(session_id: str, key: str) -> str:
    """Return a request to the admin API that revokes a session."""
    return f"{build_admin_head(f'/v1/sessions/{session_id}/revoke', key)}0\r\n\r\n"


def build_admin_head(path: str, key: str) -> str:
    """Return the head of a request to the admin API, up to the value of Content-Length."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        "Content-Length: ",
    )
    return "\r\n".join(lines)


def write_requests(texts: Iterable[str], path: Path) -> Path:
    """Write the requests in the format of the wrk scripts, and return the path."""
    path.write_bytes("\0".join(texts).encode("ascii"))
    return path
