"""The check that the host in a URL is authenticated: https, or the loopback interface."""

import re
from typing import Final

from sidegate.core.loopback import is_loopback

# Unambiguous URLs only: no user name, no fragment, nothing that two parsers split differently.
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:%/?-]*)?",
    re.ASCII,
)
MAX_LENGTH: Final = 512


def is_secure(url: str) -> bool:
    """Return whether `url` is an https URL, or an http URL of this machine."""
    match = _URL.fullmatch(url) if len(url) <= MAX_LENGTH else None
    if match is None:
        return False
    return match["scheme"] == "https" or is_loopback(match["host"])
