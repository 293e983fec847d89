"""What the admin door does for those it lets in."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sidegate.core.binding import Signals, Widths, bind
from sidegate.core.errors import Conflict, SessionEnded, SessionExists, UnreadableRecord
from sidegate.core.protocols import Cursor
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow
from sidegate.web.schemas.pagination import Cursors
from tests.web.admin.admin_listener import CURSOR_KEY, Door, admin_door

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
TOKEN = re.compile(r"sg[a-z]_[A-Za-z0-9_-]{20,}")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with admin_door(tmp_path) as opened:
        yield opened


async def _introspect(door: Door, token: str) -> dict[str, Any]:
    reply = await door.call("POST", "/oauth2/introspect", data={"token": token})
    assert reply.status == 200
    document: dict[str, Any] = reply.body
    return document


async def _state(door: Door, session_id: str) -> str:
    return str((await door.call("GET", f"/v1/sessions/{session_id}")).body["state"])


# create and show


async def test_a_created_session_opens_with_its_token(door: Door) -> None:
    token, shown = await door.create("ada")

    verdict = await door.validator.validate(token)

    assert isinstance(verdict, Allow)
    assert verdict.session.id == shown["id"]
    assert verdict.session.user_id == "ada"


async def test_a_created_session_is_found_at_its_location(door: Door) -> None:
    reply = await door.call("POST", "/v1/sessions", json={"user_id": "ada"})

    found = await door.call("GET", reply.headers["Location"])

    assert reply.headers["Location"] == f"/v1/sessions/{reply.body['session']['id']}"
    assert found.body == reply.body["session"]


async def test_what_was_told_at_creation_is_shown(door: Door) -> None:
    told: dict[str, Any] = {
        "user_id": "Grüße/{x} 😀",
        "type": "mobile",
        "tenant": "north",
        "scopes": ["read", "write", "read"],
        "expires_in": 60,
        "ip": "2001:DB8::1",
        "user_agent": "curl/8 \x1b[31m",
        "device": "telephone",
        "metadata": {"nested": {"list": [1, 2.5, None, True, "ü"]}, "big": 2**63 - 1},
    }

    _, shown = await door.create(**told)

    del told["expires_in"]
    assert shown == told | {
        "id": shown["id"],
        "scopes": ["read", "write"],
        "ip": "2001:db8::1",
        "state": "active",
        "created_at": "2026-03-04T12:00:00.123456Z",
        "authenticated_at": "2026-03-04T12:00:00.123456Z",
        "last_seen_at": "2026-03-04T12:00:00.123456Z",
        "expires_at": "2026-03-04T12:01:00.123456Z",
        "idle_at": "2026-03-11T12:00:00.123456Z",
        "revoked_at": None,
        "revoked_by": None,
        "revoked_reason": None,
        "access_count": 0,
        "refresh_count": 0,
        "binding": [],
        "provider": None,
        "provider_session_id": None,
        "provider_subject": None,
        "version": 1,
    }


async def test_a_session_is_bound_to_what_its_client_showed(door: Door) -> None:
    shown = {"ip": "192.0.2.7:5555", "user_agent": "curl/8.5.0", "header": "device 7"}

    token, session = await door.create(binding=shown)

    verdict = await door.validator.validate(token)
    assert isinstance(verdict, Allow)
    assert verdict.session.binding == bind(session["id"], Signals(**shown), Widths())
    assert session["binding"] == ["ip", "user_agent", "header"]


@pytest.mark.parametrize("type_", list(SessionType))
async def test_every_type_can_be_created(door: Door, type_: SessionType) -> None:
    token, shown = await door.create(type=type_.value)

    assert shown["type"] == type_.value
    assert token.startswith(f"sg{type_.letter}_")


async def test_no_answer_but_creates_holds_a_token_or_a_digest(door: Door) -> None:
    token, shown = await door.create()
    hidden = [token, sha256(token.encode()).hexdigest()]

    replies = [
        await door.call("GET", f"/v1/sessions/{shown['id']}"),
        await door.call("GET", "/v1/users/ada/sessions"),
        await door.call("POST", "/oauth2/introspect", data={"token": token}),
        await door.call("POST", f"/v1/sessions/{shown['id']}/revoke"),
    ]

    for reply in replies:
        assert reply.status == 200
        assert not TOKEN.search(reply.text)
        assert "digest" not in reply.text
        assert not [secret for secret in hidden if secret in reply.text]


async def test_a_session_that_is_not_there_is_404(door: Door) -> None:
    for path in (f"/v1/sessions/{UNKNOWN}", "/v1/sessions/nonsense"):
        reply = await door.call("GET", path)

        assert reply.status == 404
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body["code"] == "not_found"


async def test_a_session_shows_how_it_ended(door: Door) -> None:
    idle, expired, revoked = [(await door.create())[1]["id"] for _ in range(3)]
    service = (await door.create(type="service", expires_in=60))[1]["id"]
    await door.call("POST", f"/v1/sessions/{revoked}/revoke")

    door.clock.advance(timedelta(minutes=31))
    states = [await _state(door, each) for each in (idle, service, revoked)]
    door.clock.advance(timedelta(hours=12))

    assert states == ["idle", "expired", "revoked"]
    assert await _state(door, expired) == "expired"


async def test_a_session_without_an_idle_timeout_says_so(door: Door) -> None:
    assert (await door.create(type="service"))[1]["idle_at"] is None


# list


async def test_a_users_sessions_are_listed_newest_first(door: Door) -> None:
    made = []
    for _ in range(3):
        door.clock.advance(1)
        made.append((await door.create())[1])
    await door.create("bob")

    reply = await door.call("GET", "/v1/users/ada/sessions")

    assert reply.body == {"sessions": made[::-1], "next_cursor": None}


async def test_pages_hold_every_session_once_and_end(door: Door) -> None:
    made = {(await door.create())[1]["id"] for _ in range(7)}  # all at the same moment
    seen: list[str] = []
    path, pages = "/v1/users/ada/sessions?limit=3", 0
    cursor: str | None = ""

    while cursor is not None:
        body = (await door.call("GET", path + (cursor and f"&cursor={cursor}"))).body
        seen += [each["id"] for each in body["sessions"]]
        cursor = body["next_cursor"]
        pages += 1

    assert pages == 3
    assert len(seen) == 7
    assert set(seen) == made


async def test_ended_sessions_are_listed_only_when_asked_for(door: Door) -> None:
    _, living = await door.create()
    _, ended = await door.create()
    await door.call("POST", f"/v1/sessions/{ended['id']}/revoke")

    without = await door.call("GET", "/v1/users/ada/sessions?include_ended=false")
    with_ended = await door.call("GET", "/v1/users/ada/sessions?include_ended=true")

    assert [each["id"] for each in without.body["sessions"]] == [living["id"]]
    assert len(with_ended.body["sessions"]) == 2


async def test_a_user_nobody_knows_has_no_sessions(door: Door) -> None:
    reply = await door.call("GET", "/v1/users/nobody/sessions")

    assert reply.body == {"sessions": [], "next_cursor": None}


async def test_user_ids_that_look_alike_are_different_users(door: Door) -> None:
    alike = [
        "Ada",
        "ada",
        "ada\u0301",
        "ad\u00e1",
        "\uff41da",
        "a%64a",
        "a/da",
        "a+da",
        "{ada}",
        "..",
    ]
    for name in alike:
        await door.create(name)

    for name in alike:
        encoded = "".join(f"%{byte:02X}" for byte in name.encode())
        reply = await door.call("GET", f"/v1/users/{encoded}/sessions")
        assert [each["user_id"] for each in reply.body["sessions"]] == [name]


async def test_a_user_id_in_a_path_is_decoded_once(door: Door) -> None:
    await door.create("a%2Fb")

    once = await door.call("GET", "/v1/users/a%2Fb/sessions")
    twice = await door.call("GET", "/v1/users/a%252Fb/sessions")

    assert len(once.body["sessions"]) == 0
    assert len(twice.body["sessions"]) == 1


async def _cursor(door: Door, user_id: str = "ada") -> str:
    for _ in range(2):
        await door.create(user_id)
    body = (await door.call("GET", f"/v1/users/{user_id}/sessions?limit=1")).body
    return str(body["next_cursor"])


async def test_a_cursor_is_good_for_its_own_list_only(door: Door) -> None:
    cursor = await _cursor(door)

    for path in ("/v1/users/bob/sessions?", "/v1/users/ada/sessions?include_ended=true&"):
        reply = await door.call("GET", f"{path}cursor={cursor}")
        assert reply.status == 400
        assert reply.body["errors"][0]["path"] == "cursor"


async def test_a_cursor_changed_in_any_place_is_refused(door: Door) -> None:
    cursor = await _cursor(door)

    for place, character in enumerate(cursor):
        forged = cursor[:place] + ("A" if character != "A" else "B") + cursor[place + 1 :]
        reply = await door.call("GET", f"/v1/users/ada/sessions?cursor={forged}")
        assert reply.status == 400


@pytest.mark.parametrize("cursor", ["", "A", "A" * 56, "=" * 56, "A" * 5000, "%00", "%FF", "%F0"])
async def test_what_is_no_cursor_is_refused(door: Door, cursor: str) -> None:
    reply = await door.call("GET", f"/v1/users/ada/sessions?cursor={cursor}")

    assert reply.status == 400


async def test_a_cursor_of_another_key_is_refused(door: Door) -> None:
    place = Cursor(door.clock.now(), SessionId(UNKNOWN))
    name = json.dumps(["ada", None, None, None, "active"])
    ours, others = Cursors(CURSOR_KEY), Cursors(bytes(32))

    replies = [
        await door.call("GET", f"/v1/users/ada/sessions?cursor={each.at_session(place, of=name)}")
        for each in (ours, others)
    ]

    assert [reply.status for reply in replies] == [200, 400]


# revoke


async def test_a_revoked_session_opens_no_more_and_says_who_did_it(door: Door) -> None:
    token, shown = await door.create()
    door.clock.advance(5)

    reply = await door.call(
        "POST", f"/v1/sessions/{shown['id']}/revoke", key="revoke", json={"reason": "stolen laptop"}
    )

    assert reply.status == 200
    assert reply.body == shown | {
        "state": "revoked",
        "revoked_at": "2026-03-04T12:00:05.123456Z",
        "revoked_by": "key:revoke",
        "revoked_reason": "stolen laptop",
        "version": 2,
    }
    assert (await _introspect(door, token)) == {"active": False}


async def test_revoking_twice_changes_nothing_more(door: Door) -> None:
    _, shown = await door.create()
    path = f"/v1/sessions/{shown['id']}/revoke"
    first = await door.call("POST", path, json={"reason": "first"})
    door.clock.advance(60)

    second = await door.call("POST", path, json={"reason": "second"})

    assert (second.status, second.body) == (200, first.body)


async def test_parallel_revocations_all_succeed(door: Door) -> None:
    _, shown = await door.create()

    replies = await asyncio.gather(
        *(door.call("POST", f"/v1/sessions/{shown['id']}/revoke") for _ in range(20))
    )

    assert {reply.status for reply in replies} == {200}
    assert {reply.body["version"] for reply in replies} == {2}


async def test_there_is_no_revoking_what_is_not_there(door: Door) -> None:
    for session_id in (UNKNOWN, UNKNOWN.upper(), "nonsense", "%00", "%FF", "..", UNKNOWN + "%0a"):
        reply = await door.call("POST", f"/v1/sessions/{session_id}/revoke")
        assert reply.status == 404


async def test_a_user_is_revoked_whole_and_nobody_else_is(door: Door) -> None:
    tokens = [(await door.create(type=type_))[0] for type_ in ("web", "mobile")]
    other, _ = await door.create("bob")

    reply = await door.call("POST", "/v1/users/ada/revoke", json={"reason": "left"})

    assert reply.body == {"revoked": 2, "more": False}
    assert [await _introspect(door, token) for token in tokens] == [{"active": False}] * 2
    assert (await _introspect(door, other))["active"] is True


async def test_a_user_is_revoked_by_type(door: Door) -> None:
    _, web = await door.create(type="web")
    _, mobile = await door.create(type="mobile")

    reply = await door.call("POST", "/v1/users/ada/revoke", json={"type": "mobile"})

    assert reply.body == {"revoked": 1, "more": False}
    assert await _state(door, web["id"]) == "active"
    assert await _state(door, mobile["id"]) == "revoked"


async def test_a_user_is_revoked_except_for_one_session(door: Door) -> None:
    ids = [(await door.create())[1]["id"] for _ in range(3)]

    reply = await door.call("POST", "/v1/users/ada/revoke", json={"except": ids[1]})

    assert reply.body == {"revoked": 2, "more": False}
    assert [await _state(door, each) for each in ids] == ["revoked", "active", "revoked"]


async def test_an_exception_that_is_no_id_revokes_nothing(door: Door) -> None:
    _, shown = await door.create()

    for wrong in ("nonsense", "", 7, shown["id"].upper() + "x"):
        reply = await door.call("POST", "/v1/users/ada/revoke", json={"except": wrong})
        assert reply.status == 400
        assert reply.body["errors"][0]["path"] == "except"

    assert await _state(door, shown["id"]) == "active"


# OAuth


async def test_introspection_says_whose_a_valid_token_is(door: Door) -> None:
    token, shown = await door.create(scopes=["a", "b"])
    now = int(door.clock.now().timestamp())

    assert await _introspect(door, token) == {
        "active": True,
        "sub": "ada",
        "sid": shown["id"],
        "token_type": "Bearer",
        "session_type": "web",
        "scope": "a b",
        "iat": now,
        "auth_time": now,
        "exp": now + 12 * 3600,
    }


async def test_introspection_tells_nothing_of_any_other_token(door: Door) -> None:
    revoked, shown = await door.create()
    await door.call("POST", f"/v1/sessions/{shown['id']}/revoke")
    idle, _ = await door.create()
    door.clock.advance(timedelta(hours=1))
    unknown = door.ring.mint(SessionType.WEB).text

    for token in (revoked, idle, unknown, "nonsense", "sgw_" + "A" * 56, "\x00", "ü" * 1000):
        assert await _introspect(door, token) == {"active": False}


async def test_a_token_is_revoked_by_itself(door: Door) -> None:
    token, shown = await door.create()

    reply = await door.call("POST", "/oauth2/revoke", data={"token": token})

    assert (reply.status, reply.text) == (200, "")
    ended = (await door.call("GET", f"/v1/sessions/{shown['id']}")).body
    assert ended["state"] == "revoked"
    assert ended["revoked_by"] == "key:all"


@pytest.mark.parametrize("late", [0, 3600])
async def test_a_rotated_out_token_revokes_its_session(door: Door, late: int) -> None:
    token, shown = await door.create(type="service")
    await _rotate(door, shown["id"])
    door.clock.advance(late)

    reply = await door.call("POST", "/oauth2/revoke", data={"token": token})

    assert reply.status == 200
    assert await _state(door, shown["id"]) == "revoked"


async def _rotate(door: Door, session_id: str) -> None:
    record = await door.store.get(SessionId(session_id))
    successor = door.ring.mint(record.session.type).digest()
    rotated = record.session.rotated(successor, timedelta(seconds=10), door.clock.now())
    assert await door.store.replace(
        type(record)(rotated, record.details), expected=record.session.version
    )


async def test_revoking_a_token_nobody_knows_is_as_good(door: Door) -> None:
    unknown = door.ring.mint(SessionType.WEB).text

    for token in (unknown, "nonsense", "sgw_" + "A" * 56):
        reply = await door.call("POST", "/oauth2/revoke", data={"token": token})
        assert reply.status == 200


async def test_a_type_hint_and_unknown_fields_are_ignored(door: Door) -> None:
    token, _ = await door.create()
    fields = {"token": token, "token_type_hint": "refresh_token", "client_id": "x"}

    reply = await door.call("POST", "/oauth2/introspect", data=fields)

    assert reply.body["active"] is True


# outages and collisions


EVERYTHING = [
    ("POST", "/v1/sessions", {"json": {"user_id": "ada"}}),
    ("GET", f"/v1/sessions/{UNKNOWN}", {}),
    ("GET", "/v1/users/ada/sessions", {}),
    ("POST", f"/v1/sessions/{UNKNOWN}/revoke", {}),
    ("POST", "/v1/users/ada/revoke", {}),
]


@pytest.mark.parametrize(("method", "path", "about"), EVERYTHING)
async def test_an_outage_is_503_and_retry_after(
    door: Door, method: str, path: str, about: dict[str, Any]
) -> None:
    door.store.breaks()

    reply = await door.call(method, path, **about)

    assert reply.status == 503
    assert reply.headers["Retry-After"] == "1"
    assert reply.body["code"] == "store_unavailable"


async def test_a_touch_moves_the_idle_deadline(door: Door) -> None:
    _, session = await door.create()
    door.clock.advance(timedelta(minutes=29))

    reply = await door.call("POST", f"/v1/sessions/{session['id']}/touch")

    assert reply.status == 200
    assert reply.body["access_count"] == 1
    assert reply.body["last_seen_at"] == "2026-03-04T12:29:00.123456Z"
    door.clock.advance(timedelta(minutes=29))
    assert await _state(door, session["id"]) == "active"


async def test_who_has_ended_cannot_be_touched(door: Door) -> None:
    _, session = await door.create()
    door.clock.advance(timedelta(minutes=31))
    reply = await door.call("POST", f"/v1/sessions/{session['id']}/touch")
    assert (reply.status, reply.body["code"]) == (409, "session_ended")
    assert await _state(door, session["id"]) == "idle"
    assert (await door.call("POST", f"/v1/sessions/{UNKNOWN}/touch")).status == 404


async def test_introspecting_is_not_being_seen(tmp_path: Path) -> None:
    seen: list[Session] = []
    async with admin_door(tmp_path, seen=lambda session, _: seen.append(session)) as door:
        token, _ = await door.create()

        assert (await _introspect(door, token))["active"] is True
        assert seen == []


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", f"/v1/sessions/{UNKNOWN}", "store_unavailable"),
        ("POST", f"/v1/sessions/{UNKNOWN}/touch", "outcome_unknown"),
    ],
)
async def test_a_silent_store_is_given_up_on_and_a_change_may_have_been_made(
    tmp_path: Path, method: str, path: str, code: str
) -> None:
    async with admin_door(tmp_path, patience=0.05) as door:
        door.store.silent = True

        reply = await door.call(method, path)

        assert reply.status == 503
        assert reply.body["code"] == code
        assert reply.headers["Retry-After"] == "1"


@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_an_outage_is_never_an_answer_about_a_token(door: Door, path: str) -> None:
    token, shown = await door.create()
    door.store.breaks()

    reply = await door.call("POST", path, data={"token": token})
    door.store.failure = None

    assert reply.status == 503
    assert reply.headers["Retry-After"] == "1"
    assert reply.body["error"] == "temporarily_unavailable"
    assert await _state(door, shown["id"]) == "active"


@pytest.mark.parametrize(
    ("path", "body", "failure", "status", "code"),
    [
        (f"/v1/sessions/{UNKNOWN}/revoke", {}, Conflict("x"), 409, "conflict"),
        ("/v1/sessions", {"user_id": "ada"}, SessionExists("x"), 409, "session_exists"),
        ("/v1/sessions", {"user_id": "ada"}, SessionEnded("x"), 409, "session_ended"),
        ("/v1/sessions", {"user_id": "ada"}, UnreadableRecord("x"), 503, "store_unavailable"),
        ("/v1/sessions", {"user_id": "ada"}, RuntimeError("x"), 500, "internal_error"),
    ],
)
async def test_what_the_service_raises_is_told_as_a_problem(
    door: Door, path: str, body: dict[str, Any], failure: Exception, status: int, code: str
) -> None:
    door.store.failure = failure

    reply = await door.call("POST", path, json=body)

    assert (reply.status, reply.body["code"]) == (status, code)
    assert reply.body["status"] == status


async def test_a_crash_says_nothing_outside_and_repeats_no_secret_inside(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    token, _ = await door.create()
    door.store.failure = RuntimeError(f"cannot bind {token} and hunter2")

    reply = await door.call("POST", "/oauth2/introspect", data={"token": token})

    assert reply.status == 500
    assert "detail" not in reply.body
    logged = _everything_logged(caplog)
    assert "RuntimeError" in logged
    assert reply.headers["X-Request-Id"] in logged
    assert not [secret for secret in (token, "hunter2") if secret in logged + reply.text]


# what every answer has


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/users/ada/sessions", 200),
        ("HEAD", "/v1/users/ada/sessions", 200),
        ("GET", "/nowhere", 404),
        ("GET", "//evil.example/v1/sessions", 404),
        ("DELETE", "/v1/sessions", 405),
        ("GET", "/v1/sessions", 400),
        ("GET", "/v1/sessions/", 404),
        ("POST", "/v1/sessions", 415),
        ("GET", f"/v1/sessions/{UNKNOWN}", 404),
    ],
)
async def test_every_answer_is_marked_and_every_error_a_problem(
    door: Door, method: str, path: str, status: int
) -> None:
    reply = await door.call(method, path, headers=[("X-Request-Id", "0123-abcd-EF")])

    assert reply.status == status
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Server"] == "sidegate"
    assert reply.headers["X-Request-Id"] == "0123-abcd-EF"
    if status >= 400:
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body["type"] == "about:blank"
        assert reply.body["status"] == status
        assert reply.body["title"]
        assert reply.body["request_id"] == "0123-abcd-EF"


async def test_a_wrong_method_is_told_the_right_ones(door: Door) -> None:
    reply = await door.call("PUT", "/v1/users/ada/sessions")

    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("sent", ["short", "x" * 65, "with space", "sgw_" + "A" * 56, "ü-ü-ü-ü-ü"])
async def test_a_request_id_that_may_not_be_logged_is_replaced(door: Door, sent: str) -> None:
    reply = await door.call("GET", "/v1/users/ada/sessions", headers=[("X-Request-Id", sent)])

    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["X-Request-Id"])


async def test_each_request_is_counted_under_its_template(door: Door) -> None:
    await door.create()
    await door.call("GET", "/v1/users/ada/sessions")
    await door.call("GET", f"/v1/sessions/{UNKNOWN}")
    await door.call("GET", "/nowhere")
    await door.call("PUT", "/v1/sessions")
    await door.call("GET", "/v1/users/ada/sessions", key=None)
    await door.call("GET", "/v1/users/ada/sessions", headers=[("Host", "evil.example")])

    assert door.counted == [
        ("/v1/sessions", "POST", 201),
        ("/v1/users/{user_id}/sessions", "GET", 200),
        ("/v1/sessions/{session_id}", "GET", 404),
        ("unmatched", "GET", 404),
        ("/v1/sessions", "PUT", 405),
        ("/v1/users/{user_id}/sessions", "GET", 401),
        ("/v1/users/{user_id}/sessions", "GET", 403),
    ]


async def test_methods_nobody_knows_are_counted_as_one(door: Door) -> None:
    for method in ("PROPFIND", "PURGE", "MKCOL"):
        await door.call(method, "/v1/sessions")

    assert set(door.counted) == {("/v1/sessions", "other", 405)}


# the log


def _everything_logged(caplog: pytest.LogCaptureFixture) -> str:
    formatter = logging.Formatter()
    return "\n".join(f"{formatter.format(each)} {vars(each)}" for each in caplog.records)


def _changes(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    fields = ("actor", "action", "session_id", "user_id", "revoked")
    return [
        {name: vars(record)[name] for name in fields if name in vars(record)}
        for record in caplog.records
        if record.name == "sidegate.admin"
    ]


async def test_each_change_is_one_line_in_the_log(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    token, first = await door.create()
    _, second = await door.create()
    await door.call("GET", "/v1/users/ada/sessions")
    await door.call("POST", f"/v1/sessions/{second['id']}/revoke", key="revoke")
    await door.call("POST", "/oauth2/revoke", data={"token": token})
    await door.call("POST", "/v1/users/ada/revoke")

    assert _changes(caplog) == [
        {"actor": "key:all", "action": "session.create", "session_id": first["id"]},
        {"actor": "key:all", "action": "session.create", "session_id": second["id"]},
        {"actor": "key:revoke", "action": "session.revoke", "session_id": second["id"]},
        {"actor": "key:all", "action": "token.revoke", "session_id": first["id"]},
        {"actor": "key:all", "action": "user.revoke", "user_id": "ada", "revoked": 0},
    ]


async def test_no_token_and_no_key_is_ever_logged(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    token, _ = await door.create()
    await door.call("POST", "/oauth2/introspect", data={"token": token})
    await door.call("POST", f"/oauth2/introspect?token={token}")
    await door.call("POST", "/v1/sessions", json={token: token})
    await door.call("GET", f"/v1/sessions/{token}")
    await door.call("GET", f"/{token}", headers=[("X-Request-Id", token)])
    await door.call("POST", "/oauth2/revoke", data={"token": token})

    logged = _everything_logged(caplog)
    assert not [secret for secret in (token, *door.keys.values()) if secret in logged]


async def test_a_token_in_the_wrong_place_is_not_repeated(door: Door) -> None:
    token, _ = await door.create()

    replies = [
        await door.call("POST", f"/oauth2/introspect?token={token}&{token}=1"),
        await door.call("POST", "/v1/sessions", json={token: token, "user_id": 1, "type": token}),
        await door.post_raw("/v1/sessions", f'{{"{token}"'.encode()),
        await door.call("GET", f"/v1/users/ada/sessions?cursor={token}&limit={token}"),
        await door.call("GET", f"/v1/sessions/{token}"),
        await door.call("POST", "/v1/sessions", headers=[("Content-Type", token)], data="{}"),
        await door.call("GET", "/v1/sessions", headers=[("Expect", token)]),
    ]

    for reply in replies:
        assert 400 <= reply.status < 500
        assert token not in reply.text


@pytest.mark.parametrize(
    "line",
    ["Authorization : Bearer {}", "X {}", "Content-Length: {}", "X-A: {}\x00", "Cookie: {}\r\n x"],
)
async def test_a_token_in_a_line_that_is_no_header_is_neither_repeated_nor_logged(
    door: Door, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    token, _ = await door.create()
    caplog.set_level(logging.DEBUG)

    answer = await door.send(door.head("GET / HTTP/1.1", line.format(token), "Connection: close"))

    assert answer.split(b" ", 2)[1] == b"400"
    assert token.encode() not in answer
    assert token not in _everything_logged(caplog)


async def test_a_row_that_cannot_be_read_is_an_outage_and_no_absence(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    _, session = await door.create()
    door.store.failure = UnreadableRecord("the row of a session: ValueError")

    for path in (f"/v1/sessions/{session['id']}", "/v1/users/ada/sessions", "/v1/audit"):
        reply = await door.call("GET", path)
        assert (reply.status, reply.body["code"]) == (503, "store_unavailable")
        assert reply.body["detail"] == "a stored record cannot be read"
    assert "unreadable record" in caplog.text
