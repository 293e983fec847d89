"""SIGHUP: new settings are lived by, all of them or none, and nobody at the gate notices."""

import asyncio
import json
import signal
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
from sidegate.observability.metrics import registry
from sidegate.runtime.container import Container, build_services
from sidegate.runtime.reload import RELOADED, Reload, merge_settings, must_go_together
from sidegate.settings import Settings, load
from sidegate.settings.sources import leaves
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.stores.waiting import until, until_answered
from tests.support.processes import Server
from tests.support.sidegate import Sidegate, start_sidegate

FIRST, SECOND = (f"sgk_{'a' * 42}{letter}" for letter in "bc")
OLD, NEW = TokenKey(1, bytes(range(32))).formatted(), TokenKey(2, bytes(range(1, 33))).formatted()


def a_key(name: str, text: str) -> dict[str, Any]:
    scopes = ["read", "write", "revoke"]
    return {"name": name, "sha256": sha256(text.encode()).hexdigest(), "scopes": scopes}


class Running:
    """A Sidegate whose settings are in a file."""

    def __init__(self, file: Path, sidegate: Sidegate, http: aiohttp.ClientSession) -> None:
        self.file = file
        self.sidegate = sidegate
        self.http = http

    def hup(self) -> None:
        self.sidegate.server.process.send_signal(signal.SIGHUP)

    async def reload(self, settings: dict[str, Any], *, times: int = 1) -> None:
        """Write other settings, and return when they are lived by."""
        self.file.write_text(yaml.safe_dump(settings))
        self.hup()
        await until(lambda: self.sidegate.server.log.count('"reloaded"') >= times)

    async def admin(self, path: str, body: object = None, key: str = FIRST) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.sidegate.admin_port}{path}"
        method = "GET" if body is None else "POST"
        headers = {"Authorization": f"Bearer {key}"}
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def login(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        status, answer = await self.admin("/v1/sessions", {"user_id": "ada", **fields})
        assert status == 201, answer
        return answer["token"], answer["session"]

    async def check(self, token: str, **headers: str) -> int:
        url = f"http://{self.sidegate.address}/forward-auth"
        headers = {"Authorization": f"Bearer {token}", **headers}
        async with self.http.get(url, headers=headers) as answer:
            return answer.status

    async def metric(self, name: str) -> float:
        async with self.http.get(f"http://127.0.0.1:{self.sidegate.ops_port}/metrics") as answer:
            [line] = [x for x in (await answer.text()).splitlines() if x.startswith(f"{name} ")]
        return float(line.split()[1])

    def warnings(self) -> list[str]:
        lines = [json.loads(line) for line in self.sidegate.server.log.splitlines()]
        return [line["event"] for line in lines if line["level"] in ("warning", "error")]


BEGUN: dict[str, Any] = {"token": {"keys": [OLD]}, "admin": {"keys": [a_key("first", FIRST)]}}


@pytest.fixture
def sidegate(workdir: Path) -> Iterator[Sidegate]:
    config = workdir / "sidegate.yaml"
    config.write_text(yaml.safe_dump(BEGUN))
    sidegate = start_sidegate(
        workdir, admin_key=FIRST, config=str(config), SIDEGATE_DRAIN__DELAY="0s"
    )
    yield sidegate
    sidegate.server.stop()


@pytest.fixture
async def running(workdir: Path, sidegate: Sidegate) -> AsyncIterator[Running]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        yield Running(workdir / "sidegate.yaml", sidegate, http)


async def test_an_api_key_comes_and_another_goes(running: Running) -> None:
    assert (await running.admin("/v1/audit", key=SECOND))[0] == 401
    await running.reload(BEGUN | {"admin": {"keys": [a_key("second", SECOND)]}})
    assert (await running.admin("/v1/audit", key=SECOND))[0] == 200
    assert (await running.admin("/v1/audit", key=FIRST))[0] == 401


async def test_a_token_key_comes_first_and_the_old_ones_tokens_stay(running: Running) -> None:
    before, _ = await running.login()
    await running.reload(BEGUN | {"token": {"keys": [NEW, OLD]}})
    after, _ = await running.login()
    assert [await running.check(token) for token in (before, after)] == [200, 200]
    await running.reload(BEGUN | {"token": {"keys": [NEW]}}, times=2)
    assert [await running.check(token) for token in (before, after)] == [401, 200]


async def test_lifetimes_and_limits_count_for_what_begins_from_now_on(running: Running) -> None:
    _, long = await running.login()
    await running.reload(BEGUN | {"sessions": {"web": {"lifetime": "2h", "limit": 2}}})
    _, short = await running.login()
    await running.login()
    assert long["expires_at"] > short["expires_at"]
    assert (await running.admin("/v1/sessions", {"user_id": "ada", "expires_in": 10_000}))[0] == 400
    _, listed = await running.admin("/v1/users/ada/sessions")
    assert len(listed["sessions"]) == 2  # the first had to go


async def test_a_binding_policy_counts_for_the_next_check(running: Running) -> None:
    token, _ = await running.login(binding={"accept_language": "de"})
    french = {"Accept-Language": "fr"}
    assert await running.check(token, **french) == 200
    await running.reload(BEGUN | {"binding": {"accept_language": "deny"}})
    assert await running.check(token, **french) == 401
    assert await running.check(token, **{"Accept-Language": "de"}) == 200


async def test_memory_counts_the_names_of_headers_by_which_it_answers(running: Running) -> None:
    token, _ = await running.login()
    await running.check(token)
    before = await running.metric("sidegate_memory_bytes")
    await running.reload(BEGUN | {"gate": {"identity": {"user": "X-" + "U" * 59}}})
    grown = await running.metric("sidegate_memory_bytes") - before
    assert grown == 50 * await running.metric("sidegate_memory_sessions") > 0


async def test_a_peer_that_is_not_trusted_any_more_is_refused(running: Running) -> None:
    token, _ = await running.login()
    await running.reload(BEGUN | {"gate": {"trusted_peers": ["192.0.2.0/24"]}})
    assert await running.check(token) == 403


async def test_the_log_says_more_when_it_is_told_to(running: Running) -> None:
    token, _ = await running.login()
    await running.check(token)
    assert '"checked"' not in running.sidegate.server.log
    await running.reload(BEGUN | {"logs": {"level": "debug"}})
    await running.check(token)
    await until(lambda: '"checked"' in running.sidegate.server.log)


async def test_a_mistake_changes_nothing_and_every_one_is_named(running: Running) -> None:
    assert await running.metric("sidegate_config_last_reload_successful") == 1
    since = await running.metric("sidegate_config_last_reload_success_timestamp_seconds")
    wrong = {
        "token": {"keys": [NEW]},  # right, and not to be lived by
        "sessions": {"web": {"lifetime": "tomorrow"}},
        "gate": {"trusted_peers": ["0.0.0.0/0"], "typo": 1},
    }
    token, _ = await running.login()
    running.file.write_text(yaml.safe_dump(wrong))
    running.hup()

    async def refused() -> bool:
        return await running.metric("sidegate_config_last_reload_successful") == 0

    await until_answered(refused)
    said = "\n".join(running.warnings())
    for path in ("sessions.web.lifetime", "gate.trusted_peers[0]", "gate.typo"):
        assert f"not reloaded: {path}" in said
    assert await running.check(token) == 200
    assert (await running.admin("/v1/audit"))[0] == 200
    assert await running.metric("sidegate_config_last_reload_success_timestamp_seconds") == since
    await running.reload(BEGUN)
    assert await running.metric("sidegate_config_last_reload_successful") == 1


async def test_what_takes_a_restart_is_named_and_the_rest_is_lived_by(running: Running) -> None:
    await running.reload(
        BEGUN
        | {
            "admin": {"keys": [a_key("second", SECOND)]},
            "memory": {"max_age": "2s"},
            "unknown": {"max_digests": 5},
        }
    )
    assert (await running.admin("/v1/audit", key=SECOND))[0] == 200
    await until(lambda: len(running.warnings()) == 2)
    assert running.warnings() == [
        "memory.max_age was changed, and takes a restart",
        "negative_cache.max_digests was changed, and takes a restart",
    ]


async def test_whoever_is_at_the_gate_notices_nothing(running: Running) -> None:
    token, _ = await running.login()
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
            settings = BEGUN | {"sessions": {"web": {"lifetime": f"{times}h"}}}
            await running.reload(settings, times=times)
        await until(lambda: len(answers) > 100)
    assert set(answers) == {200}


# --- What is taken of new settings


def settings(**variables: str) -> Settings:
    return load(None, {f"SIDEGATE_{name}": value for name, value in variables.items()})


def test_what_may_change_is_taken_and_what_may_not_is_told() -> None:
    present = settings()
    read = settings(
        SESSIONS__WEB__LIMIT="3",
        GATE__TRUSTED_PEERS="192.0.2.0/24",
        GATE__DEADLINE="100ms",
        REDIS__DEADLINE="10ms",
    )

    after, fixed = merge_settings(present, read)

    assert after.sessions.web.limit == 3
    assert after.gate.trusted_peers == (ip_network("192.0.2.0/24"),)
    assert after.gate.deadline == timedelta(milliseconds=150)
    assert fixed == [("gate", "deadline"), ("redis", "deadline")]


def test_the_same_settings_change_nothing() -> None:
    assert merge_settings(settings(), settings()) == (settings(), [])


def test_every_setting_that_is_reloaded_is_a_setting() -> None:
    paths = [path for path, _ in leaves(Settings)]

    for known in RELOADED:
        assert any(path[: len(known)] == known for path in paths), known


def test_an_emptied_file_beside_a_database_is_refused_and_no_key_is_made(
    tmp_path: Path,
) -> None:
    given = {"data_dir": str(tmp_path), "database_url": "postgresql://db/x"}
    present = Settings.model_validate(given | {"token": {"keys": [OLD]}})
    settings, _ = merge_settings(present, Settings(data_dir=tmp_path))
    with pytest.raises(SettingsError, match=r"token\.keys"):
        must_go_together(settings)
    assert not list(tmp_path.iterdir())


async def test_what_nobody_foresaw_changes_nothing_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it end what runs; and a text that was read is not repeated."""

    def read() -> Settings:
        raise RuntimeError("the secret is swordfish")

    async with build_services(Settings(data_dir=tmp_path)) as house:
        present = Settings(data_dir=tmp_path)
        reload = Reload(present, house, read=read, prepare=prepared)
        await reload.reload()
        page = generate_latest(registry(house.metrics)).decode()

    assert reload.settings is present
    assert [record.getMessage() for record in caplog.records] == [
        "not reloaded: unexpected RuntimeError"
    ]
    assert "swordfish" not in caplog.text
    assert "\nsidegate_config_last_reload_successful 0.0\n" in page


async def prepared(_: Settings, __: Container) -> Callable[[], None]:
    return lambda: None


async def test_an_admin_door_that_was_shut_at_the_start_is_told_to_take_a_restart(
    workdir: Path, own_postgres: Server
) -> None:
    await migrate_postgres(own_postgres.url)
    config = workdir / "sidegate.yaml"
    shared = {"token": {"keys": [OLD]}, "database_url": own_postgres.url}
    config.write_text(yaml.safe_dump(shared))
    sidegate = start_sidegate(
        workdir, admin_key=FIRST, config=str(config), wait=False, SIDEGATE_DRAIN__DELAY="0s"
    )
    async with aiohttp.ClientSession() as http:
        running = Running(config, sidegate, http)
        await running.reload(shared | {"admin": {"keys": [a_key("first", FIRST)]}})
        [warning] = [said for said in running.warnings() if "key" in said]
    sidegate.server.stop()
    assert warning == "the admin door had no key at the start: it takes a restart"
