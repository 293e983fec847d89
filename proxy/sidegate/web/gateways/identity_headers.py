"""The identity headers for the application: one per attribute, ASCII, always all of them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from sidegate.core.errors import IdentityTooLarge
from sidegate.core.session import Session

# Visible ASCII without `%`, the escape, and without `,`, which would split a value in two.
_UNENCODED: Final = "!#$&'()*+-./:;<=>?@[]^_`{|}~"
_UNENCODED_PATTERN: Final = re.compile(f"[A-Za-z0-9{re.escape(_UNENCODED)}]*")
_LINE_OVERHEAD: Final = len(": \r\n")


@dataclass(frozen=True, slots=True)
class IdentityNames:
    """The names of the identity headers."""

    user: str = "X-Auth-User"
    session: str = "X-Auth-Session"
    type: str = "X-Auth-Type"
    scopes: str = "X-Auth-Scopes"
    time: str = "X-Auth-Time"
    expires: str = "X-Auth-Expires"

    def all_names(self) -> tuple[str, ...]:
        return self.user, self.session, self.type, self.scopes, self.time, self.expires

    def generate_aliases(self) -> Iterator[str]:
        """Yield the variants with `_` and `.`, which some applications treat as the same names."""
        names = [name.lower() for name in self.all_names()]
        for name in names:
            for other in "_.":
                alias = name.replace("-", other)
                if alias not in names:  # a name without a dash, for example
                    yield alias

    def build_fields(self, session: Session) -> tuple[tuple[str, str], ...]:
        """Return every identity header of `session`; a missing value is an empty header.

        The user id and each scope are percent-encoded UTF-8 and can be decoded without loss. Times
        are seconds since 1970.
        """
        values = _build_values(session)
        formatted = (form % value for form, value in zip(_FORMATS, values, strict=True))
        return tuple(zip(self.all_names(), formatted, strict=True))

    def build_empty_fields(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of a request without a session: each replaces the client's own."""
        return tuple((name, "") for name in self.all_names())

    def build_encoder(self) -> Callable[[Session], bytes]:
        """Return a function that returns the lines of `build_fields` as they are sent."""
        names = [name.replace("%", "%%") for name in self.all_names()]
        lines = (f"{name}: {form}\r\n" for name, form in zip(names, _FORMATS, strict=True))
        template = "".join(lines)
        return lambda session: (template % _build_values(session)).encode("ascii")


@dataclass(frozen=True, slots=True)
class IdentityLimit:
    """The limit of the identity headers of a response, in bytes of all their lines.

    A gateway refuses a response whose head exceeds its buffer, which it would do on each request of
    the session.
    """

    names: IdentityNames
    max_size: int

    def check(self, session: Session) -> None:
        """Raise IdentityTooLarge if the headers of `session` are over the limit."""
        fields = self.names.build_fields(session)
        size = sum(len(name) + len(value) + _LINE_OVERHEAD for name, value in fields)
        if size > self.max_size:
            raise IdentityTooLarge(size, self.max_size)


# Of the values, in the order of `all_names`. Seconds are rounded towards zero.
_FORMATS: Final = ("%s", "%s", "%s", "%s", "%d", "%d")


def _build_values(session: Session) -> tuple[str | float, ...]:
    return (
        _encoded(session.user_id),
        session.id,
        session.type.value,
        _encode_scopes(session.scopes),
        session.authenticated_at.timestamp(),
        session.expires_at.timestamp(),
    )


@lru_cache(maxsize=1024)  # many sessions share their scopes
def _encode_scopes(scopes: tuple[str, ...]) -> str:
    return " ".join(map(_encoded, scopes))


def _encoded(text: str) -> str:
    if _UNENCODED_PATTERN.fullmatch(text):  # the usual case, ten times as fast
        return text
    # A store may contain lone surrogates: they must not fail, nor collide with another user id.
    return quote(text, safe=_UNENCODED, errors="surrogatepass")
