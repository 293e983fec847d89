"""Where a door opens: `host:port`, `unix:/path`, or a listener somebody has opened already."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]*):([0-9]{1,5})", re.ASCII)
_DESCRIPTOR = re.compile(r"fd:[0-9]{1,6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """`host` and `port` (0 lets the system choose), or `path`, or `inherited`, a descriptor."""

    host: str = ""
    port: int = 0
    path: str | None = None
    inherited: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `host:port`, `[v6]:port`, `:port` (all interfaces) or `unix:/path`. ValueError.

        `fd:N` is a listener that whoever started this process has opened as descriptor N.
        """
        if text.startswith("unix:"):
            path = PurePosixPath(text.removeprefix("unix:"))
            if not path.is_absolute():
                raise ValueError("write unix:/absolute/path")
            return cls(path=str(path))
        if _DESCRIPTOR.fullmatch(text):
            return cls(inherited=int(text.removeprefix("fd:")))
        spelled = _HOST_PORT.fullmatch(text)
        if spelled is None or int(spelled[2]) > 65535:
            raise ValueError("write host:port, [IPv6]:port or unix:/path")
        return cls(spelled[1].strip("[]"), int(spelled[2]))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if self.inherited is not None:
            return f"fd:{self.inherited}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
