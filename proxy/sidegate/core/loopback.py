"""Whether a host is this machine: traffic to the loopback interface does not leave it."""

from ipaddress import ip_address

from sidegate.core.client_ip import unmap


def is_loopback(host: str) -> bool:
    """Return whether a host name or an IP address means the loopback interface.

    Brackets around an IPv6 address are ignored. Of names only `localhost` counts: others may be
    resolved to any address.
    """
    try:
        return unmap(ip_address(host.strip("[]"))).is_loopback
    except ValueError:
        return host.lower() == "localhost"
