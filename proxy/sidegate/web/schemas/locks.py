"""Request and response schemas of session locks."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from sidegate.core.lock import Contended, Hold
from sidegate.services.locks import Acquired
from sidegate.web.schemas import fields
from sidegate.web.schemas.base import Payload, example_config
from sidegate.web.schemas.documents import Time, format_rfc3339, with_docstrings


class _TtlPayload(Payload):
    ttl: Annotated[int, Field(ge=1, le=300)] = 30
    """Seconds until the lock expires, from when the database receives the request."""

    def ttl_duration(self) -> timedelta:
        return timedelta(seconds=self.ttl)


class LockPayload(_TtlPayload):
    """Acquires the lock of a session."""

    model_config = example_config(ttl=30, holder="worker-3")

    holder: fields.Label | None = None
    """A name for the holder, returned to clients that find the lock held."""


class RenewPayload(_TtlPayload):
    """Extends the lock of a session."""

    lease: fields.LeaseText
    """The lease returned when the lock was acquired."""


class ReleasePayload(Payload):
    """Releases the lock of a session."""

    lease: fields.LeaseText
    """The lease returned when the lock was acquired."""


@with_docstrings
class HoldDocument(TypedDict):
    """A lock that is held."""

    fence: Annotated[int, Field(ge=0, lt=2**53)]
    """A fencing token: higher than that of every earlier holder of this lock."""
    expires_at: Time
    """When the lock expires, by the clock of the database."""


@with_docstrings
class AcquiredDocument(HoldDocument):
    """An acquired lock with its lease, which no other response contains."""

    lease: str
    """The secret needed to renew and release the lock."""


@with_docstrings
class ReleasedDocument(TypedDict):
    """The result of a release."""

    released: bool
    """False if the lease did not hold the lock any more."""


@with_docstrings
class ContendedDocument(TypedDict):
    """The lock that another client holds."""

    free_at: Time
    holder: str | None


def build_acquired_document(acquired: Acquired) -> AcquiredDocument:
    """Return an acquired lock with its lease."""
    return {"lease": acquired.lease.text, **build_hold_document(acquired.hold)}


def build_hold_document(hold: Hold) -> HoldDocument:
    """Return a held lock without its lease."""
    return {"fence": hold.fence, "expires_at": format_rfc3339(hold.expires_at)}


def build_contended_document(contended: Contended) -> ContendedDocument:
    """Return when a held lock expires, and the name of its holder."""
    return {"free_at": format_rfc3339(contended.free_at), "holder": contended.holder}
