"""What a gateway cannot do: settings for which no configuration of it would work."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from sidegate.gateway_config.deployment import Deployment

# Yields a line for each setting that cannot be used, as `path: what to do`.
Limit = Callable[[Deployment], Iterator[str]]

# The special characters of a header name besides the dash, and besides `_` and `.`, which Caddy
# removes before it looks at a route.
ODD_CHARACTERS: Final = "!#$%&'*+^`|~"
_PLAIN: Final = re.compile(r"[A-Za-z0-9-]+")
_SOCKET_PATH: Final = re.compile(r"[A-Za-z0-9._/@:+-]+")
_READABLE: Final = re.compile(r"[A-Za-z0-9_-]+")


def refuse_odd_socket_paths(site: Deployment) -> Iterator[str]:
    """Each gateway quotes other characters in its own way, or cannot have them in an address."""
    for gate in site.gates:
        if gate.path is not None and not _SOCKET_PATH.fullmatch(gate.path):
            yield (
                f"gate.listen: {gate.path!r} cannot be in a gateway's configuration; use a path of"
                " letters, digits and ./_-+@: or name one with --gate"
            )


def refuse_unix_sockets(site: Deployment) -> Iterator[str]:
    if any(gate.path is not None for gate in site.gates):
        yield "gate.listen: this gateway connects to TCP addresses only; name one with --gate"


def refuse_remote_internal_address(site: Deployment) -> Iterator[str]:
    """The gateway trusts X-Forwarded headers there, and so only those of its own machine."""
    if not _is_loopback(site.internal.host):
        yield f"--internal: {site.internal.host or 'every interface'} is not a loopback address"


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def refuse_odd_client_headers(site: Deployment) -> Iterator[str]:
    """The gateway removes headers of clients in whose names applications may see another name."""
    for path, names in (("gate.header", site.carried), ("binding.header.name", site.signals)):
        for name in names:
            if not _PLAIN.fullmatch(name.text):
                yield f"{path}: this gateway removes {name}; use letters, digits and dashes"


def refuse_odd_identity_headers(site: Deployment) -> Iterator[str]:
    """The gateway removes such names after the check, so that no variant of a name passes."""
    for name in site.identity:
        if set(name.text) & set(ODD_CHARACTERS):
            yield f"gate.identity: this gateway removes {name}; use letters, digits and dashes"


def refuse_unreadable_identity_headers(site: Deployment) -> Iterator[str]:
    """The gateway cannot read headers of a response whose names have other characters."""
    for name in site.identity:
        if not _READABLE.fullmatch(name.text):
            yield f"gate.identity: this gateway cannot read {name}; use letters, digits, - and _"
