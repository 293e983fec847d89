"""Header lines, gathered by the role they play."""

from collections.abc import Iterable, Mapping

from sidegate.web.server.messages import Head, HeaderValue

LINE_END = b"\r\n"
BLANKS = b" \t"

Roles = Mapping[str, bytes]
"""The lower-case name of the header that plays each role of a Head."""


def gather(
    method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]], roles: Roles
) -> Head:
    """Return the head of a request with these header lines, names in any case."""
    lines: dict[bytes, list[bytes]] = {name: [] for name in roles.values()}
    for name, value in fields:
        wanted = lines.get(name.lower())
        if wanted is not None:
            wanted.append(value)
    played = {role: LINE_END.join(lines[name]) for role, name in roles.items() if lines[name]}
    return Head._make((method, target, *(played.get(role) for role in Head._fields[2:])))


def only(line: HeaderValue) -> str | None:
    """Return the value of a header that was sent once; a repeated one states nothing."""
    if line is None or LINE_END in line:
        return None
    return line.rstrip(BLANKS).decode("latin-1")
