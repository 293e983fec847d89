"""How a session is told to the application: one header per fact, ASCII, always all of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from sidegate.core.session import Session

# Visible ASCII but for `%`, which must be unambiguous. A comma would let one value look like two.
_AS_IT_IS: Final = "!#$&'()*+-./:;<=>?@[]^_`{|}~"
_PLAIN: Final = re.compile(f"[A-Za-z0-9{re.escape(_AS_IT_IS)}]*")


@dataclass(frozen=True, slots=True)
class IdentityNames:
    """The names of the identity headers."""

    user: str = "X-Auth-User"
    session: str = "X-Auth-Session"
    type: str = "X-Auth-Type"
    scopes: str = "X-Auth-Scopes"
    time: str = "X-Auth-Time"
    expires: str = "X-Auth-Expires"

    def all(self) -> tuple[str, ...]:
        return self.user, self.session, self.type, self.scopes, self.time, self.expires

    def aliases(self) -> Iterator[str]:
        """Yield the spellings that some applications take for the real names."""
        for name in self.all():
            for other in "_.":
                yield name.lower().replace("-", other)

    def fields(self, session: Session) -> tuple[tuple[str, str], ...]:
        """Return every identity header of `session`, empty where there is nothing to say.

        The user id and each scope are percent-encoded as UTF-8, so that every one can be told and
        read back. Times are seconds since 1970.
        """
        return (
            (self.user, _encoded(session.user_id)),
            (self.session, session.id),
            (self.type, session.type.value),
            (self.scopes, " ".join(map(_encoded, session.scopes))),
            (self.time, _seconds(session.authenticated_at)),
            (self.expires, _seconds(session.expires_at)),
        )


def _encoded(text: str) -> str:
    if _PLAIN.fullmatch(text):  # nearly always, and ten times as quick
        return text
    # A store may hold what is no Unicode text; it must not fail, nor look like another's.
    return quote(text, safe=_AS_IT_IS, errors="surrogatepass")


def _seconds(moment: datetime) -> str:
    return str(int(moment.timestamp()))
