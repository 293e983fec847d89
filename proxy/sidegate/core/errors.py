"""The errors that Sidegate raises, grouped by cause.

SidegateError
├── StoreUnavailable        store: no answer; says nothing about the session
│   ├── OutcomeUnknown      store: a change was sent, and its outcome is unknown
│   └── CacheNotTrusted     store: a cache answered, but may have missed changes
├── RevocationPending       store: the revocation is in force, but not persisted yet
├── PositionLost            store: the change log position is not valid any more
├── TooManyChanges          store: there are more changes than are worth reading
├── UnreadableRecord        store: a record cannot be decoded
├── SessionEnded            caller: a transition of a session that has ended
├── SessionExists           caller: the id, digest or idempotency key is taken
├── IdempotencyKeyReused    caller: the Idempotency-Key was used with another request
├── MetadataTooLarge        caller: the metadata, after a merge, is over its limit
├── IdentityTooLarge        caller: the identity headers of a session would be over their limit
├── LimitReached            user: the limit of active sessions is reached, and set to refuse
├── BadLogoutToken          provider: the logout token is not valid
│   └── ReplayedLogout      provider: the logout token was processed before
├── Conflict                none: concurrent changes of the session; retry
├── PurgeInProgress         none: another process purges; it has the turn
├── CannotListen            operator: an address cannot be listened on
├── SettingsError           operator: all validation errors of the settings, each with its path
└── SchemaMismatch          operator: the database schema is older or newer than this program
"""

from datetime import datetime


def unwrap_group(error: BaseException) -> BaseException:
    """Return the only error of nested exception groups. A group of several errors stays a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class SidegateError(Exception):
    """The base class of all errors of Sidegate."""


class StoreUnavailable(SidegateError):
    """The store did not answer. Never means that something is absent.

    `store` is the store's name, `reason` a text for operators.
    """

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{store} is unavailable: {reason}")
        self.store = store
        self.reason = reason


class OutcomeUnknown(StoreUnavailable):
    """The store was lost during a change: the change may be made already, or be made later."""


class CacheNotTrusted(StoreUnavailable):
    """The cache answered, but its copies may lack changes that the database has."""


class RevocationPending(SidegateError):
    """The database is unavailable; the revocation is in force and will be persisted later.

    It is lost if Redis and every instance that received it end before the database is back.
    """

    def __init__(self) -> None:
        super().__init__(
            "the revocation is in force, and is persisted when the database is available again"
        )


class PositionLost(SidegateError):
    """The database cannot list the changes since this mark.

    `restored_since`: the database was restored, or a failover lost commits; the changes made after
    this time are lost. None: the mark is older than those kept, or of another database.
    """

    def __init__(self, reason: str, *, restored_since: datetime | None = None) -> None:
        super().__init__(reason)
        self.restored_since = restored_since


class TooManyChanges(SidegateError):
    """So much has changed since a mark that it is quicker to begin with empty caches."""


class UnreadableRecord(SidegateError):
    """A stored record cannot be decoded. Caches count it as a miss; the database raises this."""


class SessionEnded(SidegateError):
    """The session has ended, and an ended session has no transitions."""


class SessionExists(SidegateError):
    """A session with this id, digest or idempotency key is already stored."""


class CannotListen(SidegateError):
    """An address cannot be listened on. The message has the listener, the address and the cause."""


class LimitReached(SidegateError):
    """The user has the maximum of active sessions of this type, and the limit refuses more."""

    def __init__(self, type_: str, max_sessions: int) -> None:
        super().__init__(
            f"the user has {max_sessions} active {type_} sessions (sessions.{type_}.limit)"
        )


class IdempotencyKeyReused(SidegateError):
    """This Idempotency-Key was used with another request before."""


class MetadataTooLarge(SidegateError, ValueError):
    """The metadata of a session is over its limit, possibly only after a merge."""

    def __init__(self, size: int, max_bytes: int) -> None:
        super().__init__(f"at most {max_bytes} bytes of JSON; these are {size}")


class IdentityTooLarge(SidegateError):
    """The identity headers of a session would be over their limit."""

    def __init__(self, size: int, max_bytes: int) -> None:
        super().__init__(
            f"the identity headers take at most {max_bytes} bytes (gate.max_identity); "
            f"these would take {size}"
        )


class BadLogoutToken(SidegateError):
    """A logout token is not valid. The message has the cause, and nothing of the token."""


class ReplayedLogout(BadLogoutToken):
    """A logout token was processed before; the repetition may be a replay attack."""

    def __init__(self) -> None:
        super().__init__("it was processed before")


class Conflict(SidegateError):
    """The session was changed concurrently on every attempt; the caller may retry."""


class PurgeInProgress(SidegateError):
    """Another process is purging the database. Nothing was purged by this call."""

    def __init__(self) -> None:
        super().__init__("another process is deleting sessions")


class SettingsError(SidegateError):
    """The settings are not valid. `errors` lists all causes, each as `path: what to do`."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class UnsupportedByGateway(SettingsError):
    """The settings are valid, but no configuration of `gateway` would work with them."""

    def __init__(self, gateway: str, errors: list[str]) -> None:
        super().__init__(errors)
        self.gateway = gateway


class SchemaMismatch(SidegateError):
    """The database schema has another version than this program; the message says what to do."""
