"""Clients' addresses as text that sorts as they do, so that a network is one stretch of it."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_MAPPED: Final = 0xFFFF << 32
"""Where IPv6 keeps the IPv4 addresses, ::ffff:0:0/96."""


def sortable(ip: str | None) -> str | None:
    """Return 32 hex digits for an address, IPv4 as IPv4-mapped IPv6; None: it is none."""
    try:
        return None if ip is None else _digits(ip_address(ip))
    except ValueError:
        return None


def stretch(network: IPv4Network | IPv6Network) -> tuple[str, str]:
    """Return the first and the last `sortable` text of a network."""
    return _digits(network.network_address), _digits(network.broadcast_address)


def _digits(address: IPv4Address | IPv6Address) -> str:
    number = int(address) + (_MAPPED if address.version == 4 else 0)
    return f"{number:032x}"
