"""Several workers at one address: they share the work, replace the dead, and end together."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.cli.test_cli import surroundings
from tests.support.processes import PATIENCE, free_port
from tests.support.sidegate import FAST_PATH

WORKERS = 3


def eventually(holds: Callable[[], bool]) -> None:
    """Return when it does; nobody announces it."""
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, "it never did"
        time.sleep(0.02)


@dataclass
class Crew:
    """A supervisor and its workers, seen from outside."""

    process: subprocess.Popen[bytes]
    gate: int
    admin: int
    ops: int
    home: Path

    def get(self, port: int, path: str, **headers: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as door:
            door.request("GET", path, headers=headers)
            answer = door.getresponse()
            return answer.status, answer.read().decode()

    def log(self) -> str:
        return (self.home / "log").read_text()

    def admin_key(self) -> str:
        return (self.home / "sidegate/admin.key").read_text().strip()

    def login(self) -> str:
        bearer = f"Bearer {self.admin_key()}"
        headers = {"Authorization": bearer, "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.admin, timeout=PATIENCE)) as door:
            door.request("POST", "/v1/sessions", json.dumps({"user_id": "ada"}), headers)
            return str(json.loads(door.getresponse().read())["token"])

    def check(self, token: str) -> int:
        return self.get(self.gate, "/forward-auth", Authorization=f"Bearer {token}")[0]

    def ready(self) -> set[str]:
        """The numbers of the workers that are ready."""
        try:
            _, report = self.get(self.ops, "/readyz?verbose")
        except OSError:
            return set()
        return set(re.findall(r"^\[\+\]worker (\d+)$", report, re.MULTILINE))

    def reloads(self) -> list[str]:
        """Return of each worker whether its last reload was successful."""
        _, page = self.get(self.ops, "/metrics")
        name = "sidegate_config_last_reload_successful"
        return re.findall(rf"^{name}{{.*}} ([01])\.0$", page, re.MULTILINE)

    def workers(self) -> dict[str, int]:
        """The process of each worker, by its number."""
        found = {}
        for pid in children(self.process.pid):
            with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
                environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
                for each in environment:  # of one that is dying there is none left
                    if each.startswith("SIDEGATE_OPS__LISTEN="):
                        found[Path(each).stem] = pid
        return found


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


@contextmanager
def crew(home: Path, **settings: str) -> Iterator[Crew]:
    gate, admin, ops = free_port(), free_port(), free_port()
    environment = {
        "SIDEGATE_GATE__LISTEN": f"127.0.0.1:{gate}",
        "SIDEGATE_ADMIN__LISTEN": f"127.0.0.1:{admin}",
        "SIDEGATE_OPS__LISTEN": f"127.0.0.1:{ops}",
        "SIDEGATE_DRAIN__DELAY": "0s",
        "SIDEGATE_GATE__FAST_PATH": FAST_PATH,
    }
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sidegate", "serve", "--workers", str(WORKERS)],
            env=surroundings(home, **environment | settings),
            stdout=log,
            stderr=log,
        )
    try:
        yield Crew(process, gate, admin, ops, home)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[Crew]:
    with crew(tmp_path) as made:
        eventually(lambda: len(made.ready()) == WORKERS)
        yield made


def test_every_worker_answers_at_the_same_address(alive: Crew) -> None:
    token = alive.login()
    seen: set[str] = set()

    def everybody_has_answered() -> bool:
        assert alive.check(token) == HTTPStatus.OK
        _, page = alive.get(alive.ops, "/metrics")
        seen.update(
            re.findall(r'sidegate_checks_total\{.*result="allow",worker="(\d)"\} [1-9]', page)
        )
        return len(seen) == WORKERS

    eventually(everybody_has_answered)


def test_one_page_tells_the_metrics_of_all(alive: Crew) -> None:
    status, page = alive.get(alive.ops, "/metrics")

    assert status == HTTPStatus.OK
    workers = re.findall(
        r'^sidegate_build_info\{version="[^"]+",worker="(\d)"\} 1\.0$', page, re.MULTILINE
    )
    assert sorted(workers) == ["0", "1", "2"]
    assert page.count("# TYPE sidegate_build_info") == 1
    assert alive.get(alive.ops, "/livez")[0] == HTTPStatus.OK


def test_a_worker_that_is_killed_is_replaced(alive: Crew) -> None:
    token = alive.login()
    before = alive.workers()

    os.kill(before["1"], signal.SIGKILL)

    eventually(lambda: alive.workers().get("1") not in (None, before["1"]))
    eventually(lambda: len(alive.ready()) == WORKERS)
    after = alive.workers()
    assert {number: pid for number, pid in after.items() if number != "1"} == {
        number: pid for number, pid in before.items() if number != "1"
    }
    for _ in range(20):
        assert alive.check(token) == HTTPStatus.OK


def test_while_a_worker_cannot_come_back_the_others_answer_everybody(tmp_path: Path) -> None:
    realm = tmp_path / "realm"
    realm.write_text("here")
    with crew(tmp_path, SIDEGATE_GATE__REALM_FILE=str(realm)) as made:
        eventually(lambda: len(made.ready()) == WORKERS)
        token, before = made.login(), made.workers()
        realm.unlink()  # whoever starts now cannot read its settings

        os.kill(before["1"], signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{before['1']}").exists())

        for _ in range(50):
            began = time.monotonic()
            assert made.check(token) == HTTPStatus.OK
            assert time.monotonic() - began < 1
        assert made.ready() == {"0", "2"}

        realm.write_text("here")
        eventually(lambda: len(made.ready()) == WORKERS)


def test_every_worker_reads_the_settings_again(tmp_path: Path) -> None:
    realm = tmp_path / "realm"
    realm.write_text("here")
    with crew(tmp_path, SIDEGATE_GATE__REALM_FILE=str(realm)) as made:
        eventually(lambda: len(made.ready()) == WORKERS)
        realm.write_text('there, "quoted"')
        made.process.send_signal(signal.SIGHUP)
        eventually(lambda: made.reloads() == ["0"] * WORKERS)

        realm.write_text("there")
        made.process.send_signal(signal.SIGHUP)
        eventually(lambda: made.reloads() == ["1"] * WORKERS)


def test_who_is_starting_is_not_hurt_by_a_reload_and_does_not_miss_it(tmp_path: Path) -> None:
    with crew(tmp_path) as made:
        eventually(lambda: len(children(made.process.pid)) == WORKERS)
        starting = set(children(made.process.pid))
        made.process.send_signal(signal.SIGHUP)
        eventually(lambda: made.log().count('"reloaded"') == WORKERS)
        eventually(lambda: len(made.ready()) == WORKERS)
        assert set(children(made.process.pid)) == starting


def test_only_one_worker_does_the_jobs(alive: Crew) -> None:
    jobs = {
        number: b"SIDEGATE_JOBS=true" in Path(f"/proc/{pid}/environ").read_bytes()
        for number, pid in alive.workers().items()
    }
    assert jobs == {"0": True, "1": False, "2": False}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_end_well_when_they_are_told_to(alive: Crew, number: signal.Signals) -> None:
    pids = alive.workers().values()
    alive.process.send_signal(number)
    assert alive.process.wait(PATIENCE) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_while_they_say_that_they_drain_they_accept(tmp_path: Path) -> None:
    with crew(tmp_path, SIDEGATE_DRAIN__DELAY="10s") as made:
        eventually(lambda: len(made.ready()) == WORKERS)
        token = made.login()
        made.process.terminate()
        eventually(lambda: not made.ready())
        for _ in range(20):
            assert made.check(token) == HTTPStatus.OK


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_gate_that_is_closed_lets_nobody_wait_while_its_process_lives(
    tmp_path: Path, unix: bool
) -> None:
    path = tmp_path / "gate.sock"
    elsewhere = {"SIDEGATE_GATE__LISTEN": f"unix:{path}"} if unix else {}
    with crew(tmp_path, SIDEGATE_DRAIN__TIMEOUT="60s", **elsewhere) as made:
        eventually(lambda: len(made.ready()) == WORKERS)
        with asking_half(made):
            made.process.terminate()
            eventually(lambda: not accepts(str(path) if unix else ("127.0.0.1", made.gate)))
            assert made.workers()  # one of them waits for the other half
        assert made.process.wait(PATIENCE) == 0


@contextmanager
def asking_half(made: Crew) -> Iterator[None]:
    """Keep a worker at a log-in whose body is announced and asked for, and hang up in the end."""
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", made.admin), PATIENCE) as admin:
        admin.sendall(head % (made.admin, made.admin_key().encode()))
        assert admin.recv(99).startswith(b"HTTP/1.1 100")
        yield


def accepts(address: tuple[str, int] | str) -> bool:
    """Say whether somebody listens there."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def test_workers_end_when_nobody_watches_them_any_more(alive: Crew) -> None:
    pids = list(alive.workers().values())
    alive.process.kill()
    alive.process.wait(PATIENCE)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_unix_socket_is_shared_and_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    with crew(tmp_path, SIDEGATE_GATE__LISTEN=f"unix:{path}") as made:
        eventually(lambda: len(made.ready()) == WORKERS)
        assert path.stat().st_mode & 0o777 == 0o660
        made.process.terminate()
        assert made.process.wait(PATIENCE) == 0
        assert not path.exists()


def ended(home: Path, **settings: str) -> tuple[int, str]:
    """Return what a supervisor ends with that cannot begin, and what it said."""
    with crew(home, **settings) as made:
        return made.process.wait(PATIENCE), made.log()


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"SIDEGATE_GATE__DEADLINE": "soon"}, 78, "gate.deadline"),
        ({"SIDEGATE_GATE__LISTEN": "192.0.2.1:7"}, 1, "the gate door cannot open"),
        ({"SIDEGATE_DATABASE_URL": "postgresql://u@127.0.0.1:1/d?sslmode=x"}, 78, "token.keys"),
    ],
)
def test_a_supervisor_that_cannot_begin_says_why(
    tmp_path: Path, settings: dict[str, str], status: int, words: str
) -> None:
    returned, said = ended(tmp_path, **settings)
    assert returned == status
    assert words in said


def test_workers_that_cannot_begin_end_the_supervisor(tmp_path: Path) -> None:
    (tmp_path / "sidegate").mkdir()
    (tmp_path / "sidegate/sidegate.db").write_text("not a database, but long enough to be one" * 99)
    status, said = ended(tmp_path)
    assert status == 1
    assert "the file is no database" in said
