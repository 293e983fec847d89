"""Client addresses: in one form each, and as sort keys, so that a network is one range."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_MAPPED: Final = 0xFFFF << 32
"""The IPv4-mapped part of IPv6, ::ffff:0:0/96."""


def unmap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that is mapped into an IPv6 one, or the address itself.

    A socket for both families has the addresses of IPv4 peers in that form.
    """
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


@lru_cache(maxsize=1024)  # few callers make many requests
def normalize(ip: str) -> str:
    """Return an address in its canonical form, unmapped. Raise ValueError if it is none."""
    return str(unmap(ip_address(ip)))


@lru_cache(maxsize=1024)
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
