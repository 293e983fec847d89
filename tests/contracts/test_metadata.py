"""The limit of metadata through the admin API, in each database: no merge exceeds it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sidegate.core.metadata import MAX_BYTES
from sidegate.core.protocols import DurableStore
from sidegate.core.session import SessionId, SessionRecord
from tests.web.admin.admin_listener import AdminHarness, Reply, open_admin

HALF = "x" * (MAX_BYTES // 2)


class ReadTogether:
    """A store whose first two calls of `get` both return before either caller writes."""

    def __init__(self, store: DurableStore) -> None:
        self._store = store
        self._readers = 0
        self._both_have_read = asyncio.Event()

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        record = await self._store.get(session_id)
        self._readers += 1
        if self._readers == 2:
            self._both_have_read.set()
        await self._both_have_read.wait()
        return record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
async def admin(durable: DurableStore, tmp_path: Path) -> AsyncIterator[AdminHarness]:
    async with open_admin(tmp_path, durable=durable) as admin:
        yield admin


async def migrate(admin: AdminHarness, session: dict[str, Any], **attributes: Any) -> Reply:
    body = {"provider": "idp", "attributes": attributes}
    return await admin.call("POST", f"/v1/sessions/{session['id']}/sso", json=body)


async def is_valid(admin: AdminHarness, token: str) -> bool:
    reply = await admin.call("POST", "/oauth2/introspect", data={"token": token})
    return bool(reply.body["active"])


async def test_merge_over_the_limit_is_400_and_changes_nothing(admin: AdminHarness) -> None:
    token, session = await admin.create(metadata={"a": HALF})

    reply = await migrate(admin, session, b=HALF)

    assert (reply.status, reply.body["code"]) == (400, "invalid_request")
    assert [error["path"] for error in reply.body["errors"]] == ["attributes"]
    assert HALF not in reply.text
    assert (await admin.call("GET", f"/v1/sessions/{session['id']}")).body == session
    assert await is_valid(admin, token)


async def test_merges_cannot_add_up_beyond_the_limit(admin: AdminHarness) -> None:
    _, session = await admin.create()
    statuses = [
        (await migrate(admin, session, **{f"k{number}": HALF[:-100]})).status for number in range(3)
    ]
    assert statuses == [200, 200, 400]


async def test_merge_up_to_the_limit_is_stored(admin: AdminHarness) -> None:
    _, session = await admin.create(metadata={"a": "x"})
    filler = "x" * (MAX_BYTES - len('{"a":"x","b":""}'))
    assert (await migrate(admin, session, b=filler + "x")).status == 400

    assert (await migrate(admin, session, b=filler)).status == 200

    stored = (await admin.call("GET", f"/v1/sessions/{session['id']}")).body
    assert stored["metadata"] == {"a": "x", "b": filler}


async def test_ended_session_is_409_whatever_the_size(admin: AdminHarness) -> None:
    _, session = await admin.create(metadata={"a": HALF})
    await admin.call("POST", f"/v1/sessions/{session['id']}/revoke", json={})
    reply = await migrate(admin, session, b=HALF)
    assert (reply.status, reply.body["code"]) == (409, "session_ended")


async def test_of_two_concurrent_merges_the_later_one_is_limited(
    durable: DurableStore, tmp_path: Path
) -> None:
    together = cast("DurableStore", ReadTogether(durable))
    async with open_admin(tmp_path, durable=together) as admin:
        _, session = await admin.create()

        replies = await asyncio.gather(
            migrate(admin, session, a=HALF), migrate(admin, session, b=HALF)
        )

        assert sorted(reply.status for reply in replies) == [200, 400]
        issued = next(reply.body for reply in replies if reply.status == 200)
        stored = (await admin.call("GET", f"/v1/sessions/{session['id']}")).body
        assert stored == issued["session"]
        assert await is_valid(admin, issued["token"])
