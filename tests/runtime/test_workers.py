"""Several workers at one address: they share connections, are restarted, and stop together."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest

from sidegate.runtime.supervisor import Supervisor, Worker, build_worker_environment
from tests.cli.test_cli import build_environment
from tests.stores.waiting import wait_until as wait_until_in_loop
from tests.support.processes import START_TIMEOUT, find_free_port
from tests.support.sidegate import FAST_PATH

WORKERS = 3
# Seconds. Several processes start at once, each of which may take its time on a busy machine.
TIMEOUT = WORKERS * START_TIMEOUT
MODULE = (sys.executable, "-m", "sidegate")
SCRIPT = (str(Path(sysconfig.get_path("scripts")) / "sidegate"),)


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition is true."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


@dataclass
class Deployment:
    """A supervisor and its workers."""

    process: subprocess.Popen[bytes]
    gate: int
    admin: int
    ops: int
    home: Path

    def get(self, port: int, path: str, **headers: str) -> tuple[int, str]:
        with closing(
            http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
        ) as client:
            client.request("GET", path, headers=headers)
            response = client.getresponse()
            return response.status, response.read().decode()

    def read_log(self) -> str:
        return (self.home / "log").read_text()

    def read_admin_key(self) -> str:
        return (self.home / "sidegate/admin.key").read_text().strip()

    def create_session(self) -> str:
        bearer = f"Bearer {self.read_admin_key()}"
        headers = {"Authorization": bearer, "Content-Type": "application/json"}
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.admin, timeout=START_TIMEOUT)
        ) as client:
            client.request("POST", "/v1/sessions", json.dumps({"user_id": "ada"}), headers)
            return str(json.loads(client.getresponse().read())["token"])

    def check(self, token: str) -> int:
        return self.get(self.gate, "/forward-auth", Authorization=f"Bearer {token}")[0]

    def ready_workers(self) -> set[str]:
        """Return the numbers of the workers that are ready."""
        try:
            _, report = self.get(self.ops, "/readyz?verbose")
        except OSError:
            return set()
        return set(re.findall(r"^\[\+\]worker (\d+)$", report, re.MULTILINE))

    def reload_results(self) -> list[str]:
        """Return for each worker whether its last reload was successful: 1 or 0."""
        _, page = self.get(self.ops, "/metrics")
        name = "sidegate_config_last_reload_successful"
        return re.findall(rf"^{name}{{.*}} ([01])\.0$", page, re.MULTILINE)

    def worker_pids(self) -> dict[str, int]:
        """Return the process id of each worker, by its number."""
        pids = {}
        for pid in child_pids(self.process.pid):
            with suppress(ProcessLookupError, FileNotFoundError):  # it has just exited
                environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
                for each in environment:  # empty if the process is exiting
                    if each.startswith("SIDEGATE_OPS__LISTEN="):
                        pids[Path(each).stem] = pid
        return pids


def child_pids(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]


@contextmanager
def start_workers(
    home: Path, command: Sequence[str] = MODULE, cwd: Path | None = None, /, **settings: str
) -> Iterator[Deployment]:
    gate, admin, ops = find_free_port(), find_free_port(), find_free_port()
    environment = {
        "SIDEGATE_GATE__LISTEN": f"127.0.0.1:{gate}",
        "SIDEGATE_ADMIN__LISTEN": f"127.0.0.1:{admin}",
        "SIDEGATE_OPS__LISTEN": f"127.0.0.1:{ops}",
        "SIDEGATE_DRAIN__DELAY": "0s",
        "SIDEGATE_GATE__FAST_PATH": FAST_PATH,
    }
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "serve", "--workers", str(WORKERS)],
            cwd=cwd,
            env=build_environment(home, **environment | settings),
            stdout=log,
            stderr=log,
        )
    try:
        yield Deployment(process, gate, admin, ops, home)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with start_workers(tmp_path) as started:
        wait_until(lambda: len(started.ready_workers()) == WORKERS)
        yield started


def test_every_worker_answers_at_the_same_address(deployment: Deployment) -> None:
    token = deployment.create_session()
    answered: set[str] = set()

    def all_have_answered() -> bool:
        assert deployment.check(token) == HTTPStatus.OK
        _, page = deployment.get(deployment.ops, "/metrics")
        answered.update(
            re.findall(r'sidegate_checks_total\{.*result="allow",worker="(\d)"\} [1-9]', page)
        )
        return len(answered) == WORKERS

    wait_until(all_have_answered)


def test_metrics_page_has_the_series_of_every_worker(deployment: Deployment) -> None:
    status, page = deployment.get(deployment.ops, "/metrics")

    assert status == HTTPStatus.OK
    workers = re.findall(
        r'^sidegate_build_info\{version="[^"]+",worker="(\d)"\} 1\.0$', page, re.MULTILINE
    )
    assert sorted(workers) == ["0", "1", "2"]
    assert page.count("# TYPE sidegate_build_info") == 1
    assert deployment.get(deployment.ops, "/livez")[0] == HTTPStatus.OK


def test_killed_worker_is_restarted(deployment: Deployment) -> None:
    token = deployment.create_session()
    before = deployment.worker_pids()

    os.kill(before["1"], signal.SIGKILL)

    wait_until(lambda: deployment.worker_pids().get("1") not in (None, before["1"]))
    wait_until(lambda: len(deployment.ready_workers()) == WORKERS)
    after = deployment.worker_pids()
    assert {number: pid for number, pid in after.items() if number != "1"} == {
        number: pid for number, pid in before.items() if number != "1"
    }
    for _ in range(20):
        assert deployment.check(token) == HTTPStatus.OK


def test_other_workers_answer_while_one_cannot_restart(tmp_path: Path) -> None:
    realm = tmp_path / "realm"
    realm.write_text("here")
    with start_workers(tmp_path, SIDEGATE_GATE__REALM_FILE=str(realm)) as deployment:
        wait_until(lambda: len(deployment.ready_workers()) == WORKERS)
        token, before = deployment.create_session(), deployment.worker_pids()
        realm.unlink()  # a worker that starts now cannot read its settings

        os.kill(before["1"], signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{before['1']}").exists())

        for _ in range(50):
            began = time.monotonic()
            assert deployment.check(token) == HTTPStatus.OK
            assert time.monotonic() - began < 1
        wait_until(lambda: deployment.ready_workers() == {"0", "2"})

        realm.write_text("here")
        wait_until(lambda: len(deployment.ready_workers()) == WORKERS)


def test_sighup_reloads_every_worker(tmp_path: Path) -> None:
    realm = tmp_path / "realm"
    realm.write_text("here")
    with start_workers(tmp_path, SIDEGATE_GATE__REALM_FILE=str(realm)) as deployment:
        wait_until(lambda: len(deployment.ready_workers()) == WORKERS)
        realm.write_text('there, "quoted"')
        deployment.process.send_signal(signal.SIGHUP)
        wait_until(lambda: deployment.reload_results() == ["0"] * WORKERS)

        realm.write_text("there")
        deployment.process.send_signal(signal.SIGHUP)
        wait_until(lambda: deployment.reload_results() == ["1"] * WORKERS)


def test_worker_that_is_starting_survives_a_reload_and_applies_it(tmp_path: Path) -> None:
    with start_workers(tmp_path) as deployment:
        wait_until(lambda: len(child_pids(deployment.process.pid)) == WORKERS)
        starting = set(child_pids(deployment.process.pid))
        deployment.process.send_signal(signal.SIGHUP)
        wait_until(lambda: deployment.read_log().count('"reloaded"') == WORKERS)
        wait_until(lambda: len(deployment.ready_workers()) == WORKERS)
        assert set(child_pids(deployment.process.pid)) == starting


def test_only_one_worker_runs_the_jobs(deployment: Deployment) -> None:
    jobs = {
        number: b"SIDEGATE_JOBS=true" in Path(f"/proc/{pid}/environ").read_bytes()
        for number, pid in deployment.worker_pids().items()
    }
    assert jobs == {"0": True, "1": False, "2": False}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_termination_signal_stops_supervisor_and_workers(
    deployment: Deployment, number: signal.Signals
) -> None:
    pids = deployment.worker_pids().values()
    deployment.process.send_signal(number)
    assert deployment.process.wait(START_TIMEOUT) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_connections_are_accepted_while_readiness_fails(tmp_path: Path) -> None:
    with start_workers(tmp_path, SIDEGATE_DRAIN__DELAY="10s") as deployment:
        wait_until(lambda: len(deployment.ready_workers()) == WORKERS)
        token = deployment.create_session()
        deployment.process.terminate()
        wait_until(lambda: not deployment.ready_workers())
        for _ in range(20):
            assert deployment.check(token) == HTTPStatus.OK


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_closed_gate_refuses_connections_while_a_request_is_finished(
    tmp_path: Path, unix: bool
) -> None:
    path = tmp_path / "gate.sock"
    listen = {"SIDEGATE_GATE__LISTEN": f"unix:{path}"} if unix else {}
    with start_workers(tmp_path, SIDEGATE_DRAIN__TIMEOUT="60s", **listen) as deployment:
        wait_until(lambda: len(deployment.ready_workers()) == WORKERS)
        with send_half_a_request(deployment):
            deployment.process.terminate()
            wait_until(
                lambda: not is_accepting(str(path) if unix else ("127.0.0.1", deployment.gate))
            )
            assert deployment.worker_pids()  # one of them waits for the rest of the request
        assert deployment.process.wait(START_TIMEOUT) == 0


@contextmanager
def send_half_a_request(deployment: Deployment) -> Iterator[None]:
    """Send the head of a request, wait for 100 Continue, and close the connection in the end."""
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", deployment.admin), START_TIMEOUT) as admin:
        admin.sendall(head % (deployment.admin, deployment.read_admin_key().encode()))
        assert admin.recv(99).startswith(b"HTTP/1.1 100")
        yield


def is_accepting(address: tuple[str, int] | str) -> bool:
    """Return whether a connection to the address is accepted."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def test_workers_exit_when_the_supervisor_is_killed(deployment: Deployment) -> None:
    pids = list(deployment.worker_pids().values())
    deployment.process.kill()
    deployment.process.wait(START_TIMEOUT)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_unix_socket_is_shared_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    with start_workers(tmp_path, SIDEGATE_GATE__LISTEN=f"unix:{path}") as deployment:
        wait_until(lambda: len(deployment.ready_workers()) == WORKERS)
        assert path.stat().st_mode & 0o777 == 0o660
        deployment.process.terminate()
        assert deployment.process.wait(START_TIMEOUT) == 0
        assert not path.exists()


def run_failing_supervisor(home: Path, **settings: str) -> tuple[int, str]:
    """Return the exit status and the output of a supervisor that cannot start."""
    with start_workers(home, **settings) as deployment:
        return deployment.process.wait(START_TIMEOUT), deployment.read_log()


@pytest.mark.parametrize(
    ("settings", "status", "text"),
    [
        ({"SIDEGATE_GATE__DEADLINE": "soon"}, 78, "gate.deadline"),
        ({"SIDEGATE_GATE__LISTEN": "192.0.2.1:7"}, 1, "the gate listener cannot open"),
        ({"SIDEGATE_DATABASE_URL": "postgresql://u@127.0.0.1:1/d?sslmode=x"}, 78, "token.keys"),
    ],
)
def test_supervisor_that_cannot_start_reports_why(
    tmp_path: Path, settings: dict[str, str], status: int, text: str
) -> None:
    exit_status, output = run_failing_supervisor(tmp_path, **settings)
    assert exit_status == status
    assert text in output


def test_supervisor_exits_if_no_worker_can_start(tmp_path: Path) -> None:
    (tmp_path / "sidegate").mkdir()
    (tmp_path / "sidegate/sidegate.db").write_text("not a database, but long enough to be one" * 99)
    status, output = run_failing_supervisor(tmp_path)
    assert status == 1
    assert "the file is not a database" in output


@pytest.mark.parametrize(
    ("command", "names"),
    [
        pytest.param(SCRIPT, ("proxy", "sidegate", "logging"), id="script"),
        # Python itself looks for `sidegate` in the working directory first.
        pytest.param(MODULE, ("proxy", "logging"), id="module"),
    ],
)
def test_modules_of_the_working_directory_are_not_imported(
    tmp_path: Path, command: Sequence[str], names: Sequence[str]
) -> None:
    marker, cwd = tmp_path / "marker", tmp_path / "cwd"
    cwd.mkdir()
    for name in names:
        (cwd / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write(__name__)\n")

    with start_workers(tmp_path, command, cwd) as started:
        wait_until(lambda: marker.exists() or len(started.ready_workers()) == WORKERS)

    assert not marker.exists()


@pytest.mark.parametrize(
    ("search_path", "kept"),
    [
        ("/a:/b", "/a:/b"),
        ("", ""),
        (":/a", "/a"),
        ("/a::/b:", "/a:/b"),
        (".:/a:./", "/a"),
        ("{cwd}:/a", "/a"),
        ("lib:/a", "lib:/a"),
    ],
)
def test_working_directory_is_dropped_from_pythonpath_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search_path: str, kept: str
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"PYTHONPATH": search_path.format(cwd=tmp_path), "HOME": "/root"}
    assert build_worker_environment(environ, {}) == {"PYTHONPATH": kept, "HOME": "/root"}


async def test_worker_that_the_system_does_not_start_is_one_event_for_each_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(0, {}, tmp_path / "0.sock")
    supervisor = Supervisor([worker], {}, command=[str(tmp_path / "missing")])
    running = asyncio.create_task(supervisor.run())
    await wait_until_in_loop(lambda: len(caplog.records) == 2)
    supervisor.stop()
    await running
    assert [(record.msg, vars(record)["reason"]) for record in caplog.records] == [
        ("worker start failed", "No such file or directory")
    ] * 2
