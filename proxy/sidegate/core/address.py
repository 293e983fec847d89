"""Listen addresses: `host:port`, `unix:/path`, or an inherited file descriptor."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]*):([0-9]{1,5})", re.ASCII)
_DESCRIPTOR = re.compile(r"fd:[0-9]{1,6}", re.ASCII)


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
            if not path.is_absolute():
                raise ValueError("write unix:/absolute/path")
            return cls(path=str(path))
        if _DESCRIPTOR.fullmatch(text):
            return cls(fd=int(text.removeprefix("fd:")))
        match = _HOST_PORT.fullmatch(text)
        if match is None or int(match[2]) > 65535:
            raise ValueError("write host:port, [IPv6]:port or unix:/path")
        return cls(match[1].strip("[]"), int(match[2]))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if self.fd is not None:
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
