"""Sort keys of client addresses: texts in numeric order, so that a network is one range."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_MAPPED: Final = 0xFFFF << 32
"""The IPv4-mapped part of IPv6, ::ffff:0:0/96."""


def to_sort_key(ip: str | None) -> str | None:
    """Return 32 hex digits, IPv4 as IPv4-mapped IPv6; None if `ip` is not an address."""
    try:
        return None if ip is None else _to_hex(ip_address(ip))
    except ValueError:
        return None


def to_sort_key_range(network: IPv4Network | IPv6Network) -> tuple[str, str]:
    """Return the first and the last sort key of a network."""
    return _to_hex(network.network_address), _to_hex(network.broadcast_address)


def _to_hex(address: IPv4Address | IPv6Address) -> str:
    number = int(address) + (_MAPPED if address.version == 4 else 0)
    return f"{number:032x}"
