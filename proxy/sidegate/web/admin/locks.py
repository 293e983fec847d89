"""The routes that acquire, renew and release the lock of a session."""

import math
from datetime import timedelta
from typing import assert_never

from aiohttp import hdrs, web

from sidegate.core.lock import Contended, Lease
from sidegate.services.locks import Acquired, Locks
from sidegate.web.admin.sessions import path_session_id
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import parse_payload
from sidegate.web.schemas.locks import (
    LockPayload,
    ReleasedDocument,
    ReleasePayload,
    RenewPayload,
    build_acquired_document,
    build_contended_document,
    build_hold_document,
)
from sidegate.web.schemas.problems import Problem


class LockRoutes:
    """Handles requests for session locks."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    async def acquire(self, request: web.Request) -> web.Response:
        """Acquire the lock of a session. No other response contains the lease."""
        session_id = path_session_id(request)
        payload = parse_payload(LockPayload, await bodies.read_json_object(request, optional=True))
        ttl = payload.ttl_duration()
        match await self._locks.acquire(session_id, ttl=ttl, holder=payload.holder):
            case None:
                raise Problem(404, "not_found", detail="there is no such session")
            case Contended() as contended:
                raise _locked(contended)
            case Acquired() as acquired:
                return web.json_response(build_acquired_document(acquired), status=201)
            case never:
                assert_never(never)

    async def renew(self, request: web.Request) -> web.Response:
        """Renew the lock of a session. The lease and the fence stay the same."""
        session_id = path_session_id(request)
        payload = parse_payload(RenewPayload, await bodies.read_json_object(request))
        lease = Lease(payload.lease)
        hold = await self._locks.renew(session_id, lease, ttl=payload.ttl_duration())
        if hold is None:
            raise Problem(
                409, "lock_lost", detail="the lease no longer holds the lock of the session"
            )
        return web.json_response(build_hold_document(hold))

    async def release(self, request: web.Request) -> web.Response:
        """Release the lock of a session. Idempotent: a lost lock is not an error."""
        session_id = path_session_id(request)
        payload = parse_payload(ReleasePayload, await bodies.read_json_object(request))
        released = await self._locks.release(session_id, Lease(payload.lease))
        return web.json_response(ReleasedDocument(released=released))


def _locked(contended: Contended) -> Problem:
    return Problem(
        409,
        "locked",
        detail="another client holds the lock until `free_at`, unless it is renewed or released",
        headers={hdrs.RETRY_AFTER: str(_whole_seconds(contended.free_in))},
        extensions=build_contended_document(contended),
    )


def _whole_seconds(duration: timedelta) -> int:
    """Return `duration` in whole seconds, rounded up, at least 1."""
    return max(1, math.ceil(duration.total_seconds()))
