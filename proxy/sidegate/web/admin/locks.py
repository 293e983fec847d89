"""The lock of a session: acquired, renewed, released."""

import math
from datetime import timedelta
from typing import assert_never

from aiohttp import hdrs, web

from sidegate.core.lock import Contended, Lease
from sidegate.services.locks import Acquired, Locks
from sidegate.web.admin.sessions import session_id_of
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import read
from sidegate.web.schemas.locks import (
    LockPayload,
    ReleasedDocument,
    ReleasePayload,
    RenewPayload,
    acquired_document,
    contended_document,
    hold_document,
)
from sidegate.web.schemas.problems import Problem


class LockRoutes:
    """From requests to the verbs of `Locks`, and back."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    async def acquire(self, request: web.Request) -> web.Response:
        """Lock a session; the lease is in this answer and nowhere else, ever."""
        session_id = session_id_of(request)
        wanted = read(LockPayload, await bodies.json_object(request, optional=True))
        ttl = wanted.duration()
        match await self._locks.acquire(session_id, ttl=ttl, holder=wanted.holder):
            case None:
                raise Problem(404, "not_found", "there is no such session")
            case Contended() as contended:
                raise _locked(contended)
            case Acquired() as acquired:
                return web.json_response(acquired_document(acquired), status=201)
            case never:
                assert_never(never)

    async def renew(self, request: web.Request) -> web.Response:
        """Hold it for longer. The lease and the fence stay the same."""
        session_id = session_id_of(request)
        wanted = read(RenewPayload, await bodies.json_object(request))
        lease = Lease(wanted.lease)
        hold = await self._locks.renew(session_id, lease, ttl=wanted.duration())
        if hold is None:
            raise Problem(409, "lock_lost", "this lease does not hold the session's lock any more")
        return web.json_response(hold_document(hold))

    async def release(self, request: web.Request) -> web.Response:
        """Let go of it; of what is not held any more nothing changes, and that is no error."""
        session_id = session_id_of(request)
        wanted = read(ReleasePayload, await bodies.json_object(request))
        released = await self._locks.release(session_id, Lease(wanted.lease))
        return web.json_response(ReleasedDocument(released=released))


def _locked(contended: Contended) -> Problem:
    return Problem(
        409,
        "locked",
        "somebody else holds the lock; it is free at `free_at`, or before, or later if renewed",
        headers={hdrs.RETRY_AFTER: str(_whole_seconds(contended.free_in))},
        more=contended_document(contended),
    )


def _whole_seconds(duration: timedelta) -> int:
    """Return how many seconds to wait, not less than it takes, and not none at all."""
    return max(1, math.ceil(duration.total_seconds()))
