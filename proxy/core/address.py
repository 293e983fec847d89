"""Where a door opens: `host:port` or `unix:/path`."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]*):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Either `path` is given, or `host` and `port`; port 0 lets the system choose."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `host:port`, `[v6]:port`, `:port` (all interfaces) or `unix:/path`. ValueError."""
        if text.startswith("unix:"):
            path = PurePosixPath(text.removeprefix("unix:"))
            if not path.is_absolute():
                raise ValueError("write unix:/absolute/path")
            return cls(path=str(path))
        spelled = _HOST_PORT.fullmatch(text)
        if spelled is None or int(spelled[2]) > 65535:
            raise ValueError("write host:port, [IPv6]:port or unix:/path")
        return cls(spelled[1].strip("[]"), int(spelled[2]))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
