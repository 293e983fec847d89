"""URLs of stores: their parts, and the reading of parameters by a table of those allowed.

Core knows no driver: what a URL says is read here, and a driver gets values. An error names a
parameter, and never contains a value, which may be a secret in the wrong place.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import unquote

from sidegate.core.loopback import is_loopback

ESCAPE_HINT: Final = "(escape @ : / ? # in a password as %40 %3A %2F %3F %23)"

Read = Callable[[str], Any]
"""Returns the value of a parameter. Raises ValueError with how to write it."""

Table = Mapping[str, Read]
"""The parameters that a scheme allows."""

_USERINFO: Final = r"(?:(?P<user>[^@/?#\s]*)@)?"
_QUERY: Final = r"(?:\?(?P<query>[^#\s]*))?"
# The scheme and the rest of each form. Groups: scheme, user, hosts, path, query.
_FORMS: Final = tuple(
    re.compile(form)
    for form in (
        rf"(?P<scheme>postgres(?:ql)?)://{_USERINFO}(?P<hosts>[^@/?#\s]*)(?P<path>/[^@?#\s]*)?{_QUERY}",
        rf"(?P<scheme>rediss?(?:\+cluster)?)://{_USERINFO}(?P<hosts>[^@/?#\s]+)(?P<path>/[^@?#\s]*)?{_QUERY}",
        rf"(?P<scheme>unix)://{_USERINFO}(?P<hosts>)(?P<path>/[^@?#\s]+){_QUERY}",
        rf"(?P<scheme>rediss?\+sentinel)://{_USERINFO}(?P<hosts>[^@/?#\s]+)(?P<path>/[^@/?#\s]+(?:/\d+)?){_QUERY}",
    )
)
# host:port, host alone, [v6]:port; several are separated by commas.
_HOST: Final = re.compile(
    r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^,:\[\]\s]*)(?::(?P<port>\d{1,5}))?", re.ASCII
)
# What else stands before = may be a part of a password.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MAX_PORT: Final = 65_535


class UrlError(ValueError):
    """A URL cannot be used. The message has a line for each problem, without a part of a value."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: Final = tuple(problems)


@dataclass(frozen=True, slots=True)
class Host:
    """A host name or an IP address, with a port; or the path of a Unix socket."""

    name: str
    port: int

    @property
    def is_socket(self) -> bool:
        return self.name.startswith("/")

    @property
    def is_local(self) -> bool:
        """Whether traffic stays on this machine."""
        return self.is_socket or is_loopback(self.name)

    def __str__(self) -> str:
        if self.is_socket:
            return self.name
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class UrlParts:
    """The parts of a URL, decoded. None: the URL does not have it."""

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    query: str


def split_url(text: str, *, schemes: Mapping[str, Table], hint: str) -> UrlParts:
    """Return the parts of a URL of one of these schemes.

    Raise UrlError if it has another form, with `hint`: how to write it.
    """
    parts = _match_form(text)
    if parts is None or parts["scheme"] not in schemes:
        raise UrlError([hint])
    hosts = _split_hosts(parts["hosts"])
    if hosts is None or "@" in (parts["query"] or ""):
        raise UrlError([hint])
    user, colon, password = (parts["user"] or "").partition(":")
    try:
        return UrlParts(
            scheme=parts["scheme"],
            user=decode(user) if user else None,
            password=decode(password) if colon and password else None,
            hosts=tuple((decode(name), port) for name, port in hosts),
            path=decode(parts["path"] or ""),
            query=parts["query"] or "",
        )
    except ValueError:
        raise UrlError([hint]) from None


def mask_url(text: str) -> str:
    """Return a URL with its user, password and parameters masked."""
    parts = _match_form(text)
    if parts is None:
        return "***"
    user = "***@" if parts["user"] is not None else ""
    query = "?***" if parts["query"] is not None else ""
    return f"{parts['scheme']}://{user}{parts['hosts']}{parts['path'] or ''}{query}"


def read_parameters(
    parts: UrlParts, table: Table, *, hints: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the parameters by name, and all problems.

    `hints` says what to do instead of a parameter that is usual elsewhere, and not in the table.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    unknown: list[str] = []
    for name, text in _split_query(parts.query):
        if name in values:
            problems.append(f"{name}: is given twice")
        elif name not in table:
            unknown.append(name)
        else:
            try:
                values[name] = table[name](decode(text))
            except ValueError as error:
                values[name] = None
                problems.append(f"{name}: {error}")
    problems += _describe_unknown(unknown, table, scheme=parts.scheme, hints=hints)
    return values, problems


def decode(text: str) -> str:
    """Return a text without percent-encoding. Raise ValueError for what no URL of a store has."""
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:  # its message has a byte of the value
        raise ValueError("must be UTF-8 where it is percent-encoded") from None
    if _CONTROL.search(decoded):
        raise ValueError("must have no control characters")
    return decoded


def read_hosts(text: str) -> tuple[tuple[str, int | None], ...]:
    """Read a list of hosts from a parameter."""
    hosts = tuple(
        (each, None) if each.startswith("/") else _split_host(each) for each in text.split(",")
    )
    if not all(host is not None and host[0] for host in hosts):
        raise ValueError("must be a host, or the directory of a Unix socket; several with commas")
    return tuple(host for host in hosts if host is not None)


def read_ports(text: str) -> tuple[int, ...]:
    """Read a list of ports."""
    ports = text.split(",")
    if not all(re.fullmatch(r"\d{1,5}", port, re.ASCII) and _is_port(int(port)) for port in ports):
        raise ValueError("must be a port, or one for each host, with commas")
    return tuple(map(int, ports))


def read_text(text: str) -> str:
    """Read any text but an empty one."""
    if not text:
        raise ValueError("must not be empty")
    return text


def read_choice(*choices: str, hint: str = "") -> Read:
    """Return a reader of one of several words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(hint or f"must be one of {', '.join(choices)}")
        return text

    return read


def read_integer(lowest: int, highest: int) -> Read:
    """Return a reader of an integer in a range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or not lowest <= int(text) <= highest:
            raise ValueError(f"must be a number from {lowest} to {highest}")
        return int(text)

    return read


def _match_form(text: str) -> re.Match[str] | None:
    if not text.isascii():
        return None
    return next((match for form in _FORMS if (match := form.fullmatch(text))), None)


def _split_hosts(text: str) -> list[tuple[str, int | None]] | None:
    """Return names and ports, [] for an empty text, and None for one of another form."""
    hosts = [_split_host(each) for each in text.split(",")] if text else []
    return None if None in hosts else [host for host in hosts if host is not None]


def _split_host(text: str) -> tuple[str, int | None] | None:
    match = _HOST.fullmatch(text)
    if match is None or not match["name"]:
        return None
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not _is_port(port):
        return None
    return match["name"].strip("[]"), port


def _is_port(number: int) -> bool:
    return 0 < number <= _MAX_PORT


def _split_query(query: str) -> Iterator[tuple[str, str]]:
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            yield name, value


def _describe_unknown(
    names: Sequence[str], table: Table, *, scheme: str, hints: Mapping[str, str]
) -> Iterator[str]:
    """Yield a line for each parameter that has a hint or is close to one, and one for all."""
    if not names:
        return
    for name in dict.fromkeys(names):
        shown = name if _NAME.fullmatch(name) else "(unreadable)"
        close = get_close_matches(name.lower(), table, n=1, cutoff=0.75)
        if name in hints:
            yield f"{shown}: {hints[name]}"
        else:
            suggestion = f"; did you mean {close[0]}?" if close else ""
            yield f"{shown}: no such parameter{suggestion}"
    yield f"{scheme}:// allows {', '.join(sorted(table))}"
