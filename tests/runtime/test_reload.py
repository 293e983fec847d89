"""SIGHUP: new settings are applied, all of them or none, without failing a check."""

import asyncio
import json
import signal
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import generate_latest

from sidegate.core.errors import SettingsError
from sidegate.core.token import TokenKey
from sidegate.observability.metrics import build_registry
from sidegate.runtime.container import build_services
from sidegate.runtime.reload import Reloader, check_combination, merge_settings
from sidegate.services.rules import Rules
from sidegate.settings import Settings, load
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.stores.waiting import wait_until, wait_until_async
from tests.support.processes import Server
from tests.support.sidegate import Sidegate, start_sidegate

FIRST, SECOND = (f"sgk_{'a' * 42}{letter}" for letter in "bc")
OLD, NEW = TokenKey(1, bytes(range(32))).format(), TokenKey(2, bytes(range(1, 33))).format()


def build_key(name: str, text: str) -> dict[str, Any]:
    scopes = ["read", "write", "revoke"]
    return {"name": name, "sha256": sha256(text.encode()).hexdigest(), "scopes": scopes}


class RunningServer:
    """A Sidegate whose settings are in a file."""

    def __init__(self, file: Path, sidegate: Sidegate, http: aiohttp.ClientSession) -> None:
        self.file = file
        self.sidegate = sidegate
        self.http = http

    def send_sighup(self) -> None:
        self.sidegate.server.process.send_signal(signal.SIGHUP)

    async def reload(self, settings: dict[str, Any], *, times: int = 1) -> None:
        """Write other settings, and return when they are applied."""
        self.file.write_text(yaml.safe_dump(settings))
        self.send_sighup()
        await wait_until(lambda: self.sidegate.server.log.count('"reloaded"') >= times)

    async def admin(self, path: str, body: object = None, key: str = FIRST) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.sidegate.admin_port}{path}"
        method = "GET" if body is None else "POST"
        headers = {"Authorization": f"Bearer {key}"}
        async with self.http.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def create_session(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        status, answer = await self.admin("/v1/sessions", {"user_id": "ada", **fields})
        assert status == 201, answer
        return answer["token"], answer["session"]

    async def check(self, token: str, **headers: str) -> int:
        url = f"http://{self.sidegate.address}/forward-auth"
        headers = {"Authorization": f"Bearer {token}", **headers}
        async with self.http.get(url, headers=headers) as response:
            return response.status

    async def read_metric(self, name: str) -> float:
        async with self.http.get(f"http://127.0.0.1:{self.sidegate.ops_port}/metrics") as response:
            [line] = [x for x in (await response.text()).splitlines() if x.startswith(f"{name} ")]
        return float(line.split()[1])

    async def wait_for_metric(self, name: str, value: float) -> None:
        """Poll the metrics page, which is remembered for half a second."""

        async def is_reached() -> bool:
            return await self.read_metric(name) == value

        await wait_until_async(is_reached)

    def warnings(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.sidegate.server.log.splitlines()]
        return [line for line in lines if line["level"] in ("warning", "error")]


SUCCESSFUL = "sidegate_config_last_reload_successful"
RELOADED_AT = "sidegate_config_last_reload_success_timestamp_seconds"
INITIAL: dict[str, Any] = {"token": {"keys": [OLD]}, "admin": {"keys": [build_key("first", FIRST)]}}


@pytest.fixture
def sidegate(workdir: Path) -> Iterator[Sidegate]:
    config = workdir / "sidegate.yaml"
    config.write_text(yaml.safe_dump(INITIAL))
    sidegate = start_sidegate(
        workdir, admin_key=FIRST, config=str(config), SIDEGATE_DRAIN__DELAY="0s"
    )
    yield sidegate
    sidegate.server.stop()


@pytest.fixture
async def running(workdir: Path, sidegate: Sidegate) -> AsyncIterator[RunningServer]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        yield RunningServer(workdir / "sidegate.yaml", sidegate, http)


async def test_reload_replaces_the_api_keys(running: RunningServer) -> None:
    assert (await running.admin("/v1/audit", key=SECOND))[0] == 401
    await running.reload(INITIAL | {"admin": {"keys": [build_key("second", SECOND)]}})
    assert (await running.admin("/v1/audit", key=SECOND))[0] == 200
    assert (await running.admin("/v1/audit", key=FIRST))[0] == 401


async def test_tokens_of_an_old_key_stay_valid_until_it_is_removed(running: RunningServer) -> None:
    before, _ = await running.create_session()
    await running.reload(INITIAL | {"token": {"keys": [NEW, OLD]}})
    after, _ = await running.create_session()
    assert [await running.check(token) for token in (before, after)] == [200, 200]
    await running.reload(INITIAL | {"token": {"keys": [NEW]}}, times=2)
    assert [await running.check(token) for token in (before, after)] == [401, 200]


async def test_lifetimes_and_limits_apply_to_new_sessions(running: RunningServer) -> None:
    _, long = await running.create_session()
    await running.reload(INITIAL | {"sessions": {"web": {"lifetime": "2h", "limit": 2}}})
    _, short = await running.create_session()
    await running.create_session()
    assert long["expires_at"] > short["expires_at"]
    assert (await running.admin("/v1/sessions", {"user_id": "ada", "expires_in": 10_000}))[0] == 400
    _, listed = await running.admin("/v1/users/ada/sessions")
    assert len(listed["sessions"]) == 2  # the limit ended the first


async def test_binding_policy_applies_to_the_next_check(running: RunningServer) -> None:
    token, _ = await running.create_session(binding={"accept_language": "de"})
    french = {"Accept-Language": "fr"}
    assert await running.check(token, **french) == 200
    await running.reload(INITIAL | {"binding": {"accept_language": "deny"}})
    assert await running.check(token, **french) == 401
    assert await running.check(token, **{"Accept-Language": "de"}) == 200


async def test_memory_size_includes_the_identity_header_names(running: RunningServer) -> None:
    token, _ = await running.create_session()
    await running.check(token)
    before = await running.read_metric("sidegate_memory_bytes")
    await running.reload(INITIAL | {"gate": {"identity": {"user": "X-" + "U" * 59}}})

    async def has_grown() -> bool:
        grown = await running.read_metric("sidegate_memory_bytes") - before
        return grown == 50 * await running.read_metric("sidegate_memory_sessions") > 0

    await wait_until_async(has_grown)


async def test_lowered_identity_limit_is_for_new_tokens_only(running: RunningServer) -> None:
    body = {"user_id": "ada", "scopes": ["," * 1312]}  # with the names, exactly 4 KiB
    too_large = {"user_id": "ada", "scopes": ["," * 1312, "x"]}
    token, session = await running.create_session(**body)
    other, _ = await running.create_session(**body)
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/sessions", body),
        ("/v1/refresh", {"token": token}),
        (f"/v1/sessions/{session['id']}/sso", {"provider": "idp"}),
    ]
    assert (await running.admin("/v1/sessions", too_large))[1]["code"] == "identity_too_large"
    assert await running.check(token) == 200

    await running.reload(INITIAL | {"gate": {"max_identity": "4095"}})

    for path, document in requests:
        status, answer = await running.admin(path, document)
        assert (status, answer["code"]) == (400, "identity_too_large"), path
    assert [await running.check(each) for each in (token, token, other)] == [200, 200, 200]
    await running.reload(INITIAL, times=2)
    statuses = [(await running.admin(path, document))[0] for path, document in requests]
    assert statuses == [201, 200, 200]


async def test_optional_credential_sources_are_reloaded(running: RunningServer) -> None:
    token, _ = await running.create_session()
    basic = {"Authorization": f"Basic {b64encode(f'git:{token}'.encode()).decode()}"}
    offer = {"Authorization": "", "Sec-WebSocket-Protocol": f"sidegate, {token}"}
    assert [await running.check(token, **each) for each in (basic, offer)] == [401, 401]
    await running.reload(INITIAL | {"gate": {"basic": True, "websocket_protocol": True}})
    assert [await running.check(token, **each) for each in (basic, offer)] == [200, 200]


async def test_access_rules_are_reloaded_all_or_none(running: RunningServer) -> None:
    token, _ = await running.create_session()
    public = {"X-Forwarded-Uri": "/public/x", "X-Forwarded-Method": "GET"}
    admin = {"X-Forwarded-Uri": "/admin", "X-Forwarded-Method": "GET"}
    rules = [
        {"name": "static", "paths": "/public/**", "access": "public"},
        {"paths": "/admin/**", "scopes": "admin"},
    ]

    async def check() -> list[int]:
        return [
            await running.check("none", **public),
            await running.check(token, **admin),
            await running.check(token),
        ]

    assert await check() == [401, 200, 200]
    await running.reload(INITIAL | {"rules": rules})
    assert await check() == [200, 403, 403]
    wrong = [*rules, {"paths": "public"}]
    running.file.write_text(yaml.safe_dump(INITIAL | {"rules": wrong}))
    running.send_sighup()
    await running.wait_for_metric(SUCCESSFUL, 0)
    assert await check() == [200, 403, 403]
    await running.reload(INITIAL, times=2)
    assert await check() == [401, 200, 200]
    labels = 'mode="enforced",outcome="anonymous",rule="static"'
    await running.wait_for_metric(f"sidegate_rule_checks_total{{{labels}}}", 2)


async def test_peer_removed_from_trusted_peers_gets_403(running: RunningServer) -> None:
    token, _ = await running.create_session()
    await running.reload(INITIAL | {"gate": {"trusted_peers": ["192.0.2.0/24"]}})
    assert await running.check(token) == 403


async def test_log_level_is_reloaded(running: RunningServer) -> None:
    token, _ = await running.create_session()
    await running.check(token)
    assert '"session checked"' not in running.sidegate.server.log
    await running.reload(INITIAL | {"logs": {"level": "debug"}})
    await running.check(token)
    await wait_until(lambda: '"session checked"' in running.sidegate.server.log)


async def test_invalid_settings_change_nothing_and_all_errors_are_logged(
    running: RunningServer,
) -> None:
    assert await running.read_metric(SUCCESSFUL) == 1
    since = await running.read_metric(RELOADED_AT)
    wrong = {
        "token": {"keys": [NEW]},  # valid, but must not be applied
        "sessions": {"web": {"lifetime": "tomorrow"}},
        "gate": {"trusted_peers": ["0.0.0.0/0"], "typo": 1},
    }
    token, _ = await running.create_session()
    running.file.write_text(yaml.safe_dump(wrong))
    running.send_sighup()

    await running.wait_for_metric(SUCCESSFUL, 0)
    failed = [line["reason"] for line in running.warnings() if line["event"] == "reload failed"]
    for path in ("sessions.web.lifetime", "gate.trusted_peers[0]", "gate.typo"):
        assert any(error.startswith(path) for error in failed)
    assert await running.check(token) == 200
    assert (await running.admin("/v1/audit"))[0] == 200
    assert await running.read_metric(RELOADED_AT) == since
    await running.reload(INITIAL)
    await running.wait_for_metric(SUCCESSFUL, 1)


async def test_settings_that_need_a_restart_are_logged(
    running: RunningServer,
) -> None:
    await running.reload(
        INITIAL
        | {
            "admin": {"keys": [build_key("second", SECOND)]},
            "memory": {"max_age": "2s"},
            "negative_cache": {"max_digests": 5},
        }
    )
    assert (await running.admin("/v1/audit", key=SECOND))[0] == 200
    await wait_until(lambda: len(running.warnings()) == 2)
    assert [(line["event"], line["setting"]) for line in running.warnings()] == [
        ("setting needs a restart", "memory.max_age"),
        ("setting needs a restart", "negative_cache.max_digests"),
    ]


async def test_reload_under_load_fails_no_check(running: RunningServer) -> None:
    token, _ = await running.create_session()
    answers: list[int] = []

    @asynccontextmanager
    async def load() -> AsyncIterator[None]:
        async def one() -> None:
            while True:
                answers.append(await running.check(token))

        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(one()) for _ in range(4)]
            yield
            for task in work:
                task.cancel()

    async with load():
        for times in range(1, 6):
            settings = INITIAL | {"sessions": {"web": {"lifetime": f"{times}h"}}}
            await running.reload(settings, times=times)
        await wait_until(lambda: len(answers) > 100)
    assert set(answers) == {200}


# --- Merging settings


def load_variables(**variables: str) -> Settings:
    return load(None, {f"SIDEGATE_{name}": value for name, value in variables.items()})


def test_reloadable_changes_are_merged_and_the_others_returned() -> None:
    current = load_variables()
    read = load_variables(
        SESSIONS__WEB__LIMIT="3",
        GATE__TRUSTED_PEERS="192.0.2.0/24",
        GATE__DEADLINE="100ms",
        REDIS__DEADLINE="10ms",
    )

    merged, unchanged = merge_settings(current, read)

    assert merged.sessions.web.limit == 3
    assert merged.gate.trusted_peers == (ip_network("192.0.2.0/24"),)
    assert merged.gate.deadline == timedelta(milliseconds=150)
    assert unchanged == [("gate", "deadline"), ("redis", "deadline")]


def test_merging_equal_settings_changes_nothing() -> None:
    assert merge_settings(load_variables(), load_variables()) == (load_variables(), [])


def test_reload_without_token_keys_beside_a_database_is_refused(
    tmp_path: Path,
) -> None:
    given = {"data_dir": str(tmp_path), "database_url": "postgresql://db/x"}
    current = Settings.model_validate(given | {"token": {"keys": [OLD]}})
    settings, _ = merge_settings(current, Settings(data_dir=tmp_path))
    with pytest.raises(SettingsError, match=r"token\.keys"):
        check_combination(settings)
    assert not list(tmp_path.iterdir())


async def test_unexpected_error_changes_nothing_and_its_text_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> Settings:
        raise RuntimeError("the secret is swordfish")

    async with build_services(Settings(data_dir=tmp_path)) as container:
        current = Settings(data_dir=tmp_path)
        reloader = Reloader(current, container, read_settings=read, prepare=prepare)
        await reloader.reload()
        page = generate_latest(build_registry(container.metrics)).decode()

    assert reloader.settings is current
    [record] = caplog.records
    assert record.getMessage() == "reload failed"
    assert vars(record)["reason"] == "unexpected RuntimeError"
    assert "swordfish" not in str(vars(record))
    assert "\nsidegate_config_last_reload_successful 0.0\n" in page


async def prepare(_: Settings, __: Rules) -> Callable[[], None]:
    return lambda: None


async def test_first_admin_key_needs_a_restart(workdir: Path, own_postgres: Server) -> None:
    await migrate_postgres(own_postgres.url)
    config = workdir / "sidegate.yaml"
    shared = {"token": {"keys": [OLD]}, "database_url": own_postgres.url}
    config.write_text(yaml.safe_dump(shared))
    sidegate = start_sidegate(
        workdir,
        admin_key=FIRST,
        config=str(config),
        wait_until_ready=False,
        SIDEGATE_DRAIN__DELAY="0s",
    )
    async with aiohttp.ClientSession() as http:
        running = RunningServer(config, sidegate, http)
        await running.reload(shared | {"admin": {"keys": [build_key("first", FIRST)]}})
        events = [(line["event"], line.get("listener")) for line in running.warnings()]
    sidegate.server.stop()
    assert ("listener needs a restart", "admin") in events
