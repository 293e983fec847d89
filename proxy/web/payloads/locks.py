"""What comes in and goes out about the lock of a session."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from proxy.core.lock import Contended, Hold
from proxy.web.payloads import values
from proxy.web.payloads.base import Payload
from proxy.web.payloads.documents import rfc3339
from proxy.web.payloads.sessions import Label

SomeLease = Annotated[str, AfterValidator(values.lease)]


class _Timed(Payload):
    """For how many seconds the lock is to be held."""

    ttl: Annotated[int, Field(ge=1, le=300)] = 30

    def duration(self) -> timedelta:
        return timedelta(seconds=self.ttl)


class LockPayload(_Timed):
    """POST /v1/sessions/{id}/lock. `holder` is what those who find it held are told."""

    holder: Label | None = None


class RenewPayload(_Timed):
    """PUT /v1/sessions/{id}/lock."""

    lease: SomeLease


class ReleasePayload(Payload):
    """DELETE /v1/sessions/{id}/lock."""

    lease: SomeLease


def hold_document(hold: Hold) -> dict[str, Any]:
    """Return what a holder is told."""
    return {"fence": hold.fence, "expires_at": rfc3339(hold.expires_at)}


def contended_document(contended: Contended) -> dict[str, Any]:
    """Return what whoever finds the lock held is told."""
    return {"free_at": rfc3339(contended.free_at), "holder": contended.holder}
