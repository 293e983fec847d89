"""Whether a host is this machine: traffic to the loopback interface does not leave it."""

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str) -> bool:
    """Return whether a host name or an IP address means the loopback interface.

    Brackets around an IPv6 address are ignored. Of names only `localhost` counts: others may be
    resolved to any address.
    """
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
