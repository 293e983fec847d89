"""The session cookie as a `Set-Cookie` header gives it to a browser, and takes it away."""

from datetime import timedelta

# Scripts cannot read it, and requests from other sites do not carry it, but for links.
_ATTRIBUTES = "Secure; HttpOnly; SameSite=Lax"


def format_cookie(name: str, token: str, *, lifetime: timedelta) -> str:
    """Return the value of the header that gives a token to a browser for so long."""
    seconds = max(0, int(lifetime.total_seconds()))
    return f"{name}={token}; Path=/; Max-Age={seconds}; {_ATTRIBUTES}"


def format_expired_cookie(name: str) -> str:
    """Return the value of the header that removes the cookie from a browser."""
    return f"{name}=; Path=/; Max-Age=0; {_ATTRIBUTES}"
