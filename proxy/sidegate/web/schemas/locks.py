"""What comes in and goes out about the lock of a session."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from sidegate.core.lock import Contended, Hold
from sidegate.services.locks import Acquired
from sidegate.web.schemas import fields
from sidegate.web.schemas.base import Payload, example
from sidegate.web.schemas.documents import Time, described, rfc3339


class _Timed(Payload):
    ttl: Annotated[int, Field(ge=1, le=300)] = 30
    """For how many seconds the lock is to be held, from when the database hears of it."""

    def duration(self) -> timedelta:
        return timedelta(seconds=self.ttl)


class LockPayload(_Timed):
    """Who wants the lock of a session, and for how long."""

    model_config = example(ttl=30, holder="worker-3")

    holder: fields.Label | None = None
    """What those who find it held are told."""


class RenewPayload(_Timed):
    """Whose lock is to be held for longer."""

    lease: fields.LeaseText
    """As the lock's answer had it."""


class ReleasePayload(Payload):
    """Whose lock is to end."""

    lease: fields.LeaseText
    """As the lock's answer had it."""


@described
class HoldDocument(TypedDict):
    """The lock is held."""

    fence: Annotated[int, Field(ge=0, lt=2**53)]
    """Higher than that of every earlier hold on this session's lock."""
    expires_at: Time
    """When it ends by itself, by the clock of the database."""


@described
class AcquiredDocument(HoldDocument):
    """The lock is held, and by whom: the lease is in this answer and nowhere else, ever."""

    lease: str
    """The secret it is renewed and released with."""


@described
class ReleasedDocument(TypedDict):
    """Whether the lock was held by the lease until now."""

    released: bool


@described
class ContendedDocument(TypedDict):
    """What whoever finds the lock held is told."""

    free_at: Time
    holder: str | None


def acquired_document(acquired: Acquired) -> AcquiredDocument:
    """Return what whoever has acquired the lock is told."""
    return {"lease": acquired.lease.text, **hold_document(acquired.hold)}


def hold_document(hold: Hold) -> HoldDocument:
    """Return what a holder is told."""
    return {"fence": hold.fence, "expires_at": rfc3339(hold.expires_at)}


def contended_document(contended: Contended) -> ContendedDocument:
    """Return what whoever finds the lock held is told."""
    return {"free_at": rfc3339(contended.free_at), "holder": contended.holder}
