"""Every error the house raises on purpose, named by whose fault it is.

SidegateError
├── StoreUnavailable    the store's: it could not answer; says nothing about the session
│   └── OutcomeUnknown      a change was sent to it, and nobody knows whether it was made
├── RevocationPending   the store's, too: the revocation holds, and is written down later
├── MarkLost            the store's: it cannot tell what has changed since then
├── UnreadableRecord    the store's content: a record that cannot be what was written
├── SessionEnded        the caller's: a transition was asked of a session that has ended
├── SessionExists       the caller's: that id or digest is taken
├── LimitReached        the user's: as many sessions live as may, and none is to end for another
├── BadLogoutToken      the provider's: its logout token is not one to obey
│   └── ReplayedLogout  ... any more: it has been obeyed before
├── AnotherRequest      the caller's: an Idempotency-Key that stands for another request
├── CannotListen        the operator's: a door cannot open at its address
├── Conflict            nobody's: somebody else changed the session first; read it again
├── SettingsError       the operator's: every mistake in the settings, each with its path
└── SchemaMismatch      the operator's: the database's tables are older or newer than this program
"""


class SidegateError(Exception):
    """Root of the tree."""


class StoreUnavailable(SidegateError):
    """The store could not answer. Never means that something is absent."""

    def __init__(self, store: str, why: str) -> None:
        super().__init__(f"{store} cannot answer: {why}")
        self.store = store
        self.why = why


class OutcomeUnknown(StoreUnavailable):
    """The store was lost while it made a change: it may have been made, or be made yet."""


class RevocationPending(SidegateError):
    """The truth is away. The revocation holds on every instance, and is written down later.

    It does so as long as the Redis lives that took it, or any instance that has heard of it.
    """

    def __init__(self) -> None:
        super().__init__("the revocation holds, and is written down when the database is back")


class MarkLost(SidegateError):
    """The store has gone back in time, and does not know what it has told us since."""


class UnreadableRecord(SidegateError):
    """A stored record cannot be read. A hot store counts it and misses; a durable store raises."""


class SessionEnded(SidegateError):
    """An ended session has no transitions."""


class SessionExists(SidegateError):
    """A session with this id or digest is already stored."""


class CannotListen(SidegateError):
    """A door cannot open there. The message names the door, the address and why."""


class LimitReached(SidegateError):
    """The user has as many living sessions of this type as the settings allow, and keeps them."""

    def __init__(self, type_: str, most: int) -> None:
        super().__init__(f"the user has {most} living {type_} sessions (sessions.{type_}.limit)")


class AnotherRequest(SidegateError):
    """This Idempotency-Key was sent with another request before."""


class BadLogoutToken(SidegateError):
    """A logout token ends nothing. The message says why, and repeats nothing of it."""


class ReplayedLogout(BadLogoutToken):
    """A logout token was obeyed before: whoever sends it again may have stolen it."""

    def __init__(self) -> None:
        super().__init__("it was obeyed before")


class Conflict(SidegateError):
    """The session kept changing under our hands: the caller may try again."""


class SettingsError(SidegateError):
    """The settings are wrong. `mistakes` lists them all, each as `path: what to do`."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.errors = mistakes


class SchemaMismatch(SidegateError):
    """The database's tables are not those this program works with; the message says what to do."""
