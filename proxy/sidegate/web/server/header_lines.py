"""Header lines by role, and single header values."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sidegate.web.server.messages import Head, HeaderValue

LINE_END = b"\r\n"
WHITESPACE = b" \t"

Roles = Mapping[str, bytes]
"""The lower-case name of the header that plays each role of a Head."""


class PlainForms(NamedTuple):
    """What the fast path captures of credentials in their plain forms.

    `cookie` is the name of the session cookie. `all_cookies`: capture the other cookies, too.
    """

    bearer: bool = True
    cookie: bytes | None = None
    all_cookies: bool = False


def build_head(
    method: bytes, target: bytes, *, fields: Iterable[tuple[bytes, bytes]], roles: Roles
) -> Head:
    """Return a request's Head from header lines with names in any case."""
    values: dict[bytes, list[bytes]] = {name: [] for name in roles.values()}
    for name, value in fields:
        wanted = values.get(name.lower())
        if wanted is not None:
            wanted.append(value)
    by_role = {role: LINE_END.join(values[name]) for role, name in roles.items() if values[name]}
    return Head._make((method, target, *(by_role.get(role) for role in Head._fields[2:])))


def parse_single_value(value: HeaderValue) -> str | None:
    """Return the value of a header sent once, or None if it is absent or repeated."""
    if value is None or LINE_END in value:
        return None
    return value.rstrip(WHITESPACE).decode("latin-1")
