"""Listen addresses: `host:port`, `unix:/path`, or an inherited file descriptor."""

import re
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import PurePosixPath
from typing import Final

_HOST_PORT = re.compile(r"(\[.*\]|[^:]*):([0-9]{1,5})", re.ASCII)
_DESCRIPTOR = re.compile(r"fd:[0-9]{1,6}", re.ASCII)
# Container platforms have names with underscores, too.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
# Resolvers read `127.1`, `0` and `0x7f.1` as IPv4 addresses: refused, as is `300.0.0.1`.
_LIKE_IPV4: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[Xx][0-9A-Fa-f]*)\.?", re.ASCII)
# Hosts that mean every interface, and the loopback address that reaches a listener there.
_EVERY_INTERFACE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not bound to


def is_host(text: str) -> bool:
    """Return whether it is a host name, an IPv4 address, or an IPv6 address in brackets."""
    try:
        if text.startswith("[") and text.endswith("]"):
            return IPv6Address(text[1:-1]).scope_id is None
        if _LIKE_IPV4.fullmatch(text):
            IPv4Address(text)
            return True
    except AddressValueError:
        return False
    return _HOST_NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address (`host`, `port`), a Unix socket (`path`), or a listening socket (`fd`).

    Port 0 lets the system choose. An empty host means all interfaces.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    fd: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse `host:port`, `[v6]:port`, `:port`, `unix:/path` or `fd:N`.

        `fd:N` is a listening socket inherited from the parent process as descriptor N.
        Raise ValueError for any other text.
        """
        if text.startswith("unix:"):
            path = PurePosixPath(text.removeprefix("unix:"))
            if not path.is_absolute() or "\0" in text:
                raise ValueError("write unix:/absolute/path")
            return cls(path=str(path))
        if _DESCRIPTOR.fullmatch(text):
            return cls(fd=int(text.removeprefix("fd:")))
        match = _HOST_PORT.fullmatch(text)
        if match is None or int(match[2]) > 65535 or (match[1] and not is_host(match[1])):
            raise ValueError("write host:port, [IPv6]:port or unix:/path")
        return cls(match[1].strip("[]"), int(match[2]))

    @property
    def is_every_interface(self) -> bool:
        """Whether it is a TCP address of every interface, of IPv4 at least."""
        return self.path is None and self.fd is None and self.host in _EVERY_INTERFACE

    @property
    def local(self) -> "Address":
        """The address at which this machine connects to a listener at this address."""
        return replace(self, host=_EVERY_INTERFACE[self.host]) if self.is_every_interface else self

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if self.fd is not None:
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
