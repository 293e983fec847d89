"""Whether what is fetched from a URL comes from whom the URL names."""

import re
from ipaddress import ip_address
from typing import Final

# One way to read it only: no user name, no fragment, nothing that two readers might split in two.
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:%/?-]*)?",
    re.ASCII,
)
LONGEST: Final = 512


def is_secure(url: str) -> bool:
    """Say whether it is an https URL, or one of plain http that leads to this very machine."""
    spelled = _URL.fullmatch(url) if len(url) <= LONGEST else None
    if spelled is None:
        return False
    return spelled["scheme"] == "https" or _is_loopback(spelled["host"])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
