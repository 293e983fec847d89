"""The command line, as a program: what it prints, where, and its exit code."""

import hashlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from sidegate.cli.main import main
from sidegate.core.address import Address
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.runtime.healthcheck import livez
from tests.support.processes import PATIENCE, free_port
from tests.support.sidegate import FAST_PATH

NOBODY = "01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a"


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """This process's environment, which may hold a coverage run's, without settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SIDEGATE_")}
    return inherited | {"XDG_STATE_HOME": str(home)} | more


def sidegate(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "sidegate", *arguments],
        env=surroundings(home, **environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def invoked(*arguments: str, **environ: str) -> Result:
    """Run a command in this process: what has no exit code or loop of its own."""
    inherited: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("SIDEGATE_")
    }
    return CliRunner(env=inherited | environ).invoke(main, arguments, prog_name="sidegate")


def every_command() -> Iterator[list[str]]:
    def below(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        yield path
        if isinstance(command, click.Group):
            for name, one in command.commands.items():
                yield from below(one, [*path, name])

    yield from below(main, [])


# --- help, misspelled commands, wrong settings


def test_cleanup_says_what_it_deleted(tmp_path: Path) -> None:
    settings = {
        "SIDEGATE_SESSIONS__WEB__LIFETIME": "1ms",
        "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "none",
        "SIDEGATE_CLEANUP__RETENTION": "0s",
        "SIDEGATE_CLEANUP__BATCH": "2",
    }
    for _ in range(3):
        assert sidegate(tmp_path, "session", "create", "alice", **settings).returncode == 0
    done = sidegate(tmp_path, "cleanup", **settings)
    assert done.returncode == 0
    assert done.stdout == "3 sessions deleted\n"
    assert "2 deleted so far" in done.stderr


def told_as(card: str, name: str) -> str | None:
    """Return what a card tells on the line of that name."""
    found = re.search(rf"^{name} +(.*)$", card, re.MULTILINE)
    return found[1] if found else None


@pytest.mark.parametrize("command", [*every_command()], ids=" ".join)
def test_every_command_has_help_with_examples(command: list[str]) -> None:
    told = invoked(*command, "--help")

    assert told.exit_code == 0
    assert "Examples:\n" in told.output
    assert f"\n    {' '.join(['sidegate', *command])}" in told.output or "SIDEGATE_" in told.output


def test_the_commands_are_these() -> None:
    leaves = {" ".join(path) for path in every_command()}

    assert leaves >= {
        "serve",
        "migrate",
        "healthcheck",
        "config check",
        "config show",
        "config schema",
        "key new",
        "key token",
        "session create",
        "session show",
        "session list",
        "session revoke",
        "analytics",
        "audit list",
        "audit verify",
        "openapi",
        "version",
    }


def test_help_is_quick_because_it_loads_nothing_but_click(tmp_path: Path) -> None:
    code = "import sys, sidegate.cli.main"
    code += "; print(*sorted({m.partition('.')[0] for m in sys.modules}))"

    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert "click" in loaded
    assert not {"pydantic", "aiohttp", "asyncpg", "redis", "structlog", "uvloop"} & set(loaded)


@pytest.mark.parametrize(
    "arguments",
    [
        ["serv"],
        ["serve", "--configuration", "x"],
        ["config"],
        ["key", "new", "ci"],
        ["key", "new", "c i", "--scope", "read"],
        ["key", "new", "ci", "--scope", "root"],
        ["key", "token", "--id", "256"],
        ["session", "create"],
        ["session", "create", "a", "--type", "desktop"],
        ["session", "create", "a", "--expires-in", "soon"],
        ["session", "create", "a", "--metadata", "[]"],
        ["session", "create", "a", "--metadata", "{"],
        ["session", "create", " a"],
        ["session", "create", "a", "--provider", "idp"],
        ["session", "create", "a", "--type", "sso", "--provider-session", "s1"],
        ["session", "show", "42"],
        ["session", "list", ""],
        ["session", "revoke"],
        ["session", "revoke", NOBODY, "--user", "alice"],
        ["session", "revoke", NOBODY, "--type", "web"],
        ["session", "revoke", NOBODY, "--reason", ""],
    ],
    ids=" ".join,
)
def test_a_misspelled_command_is_told_on_stderr_with_2(
    arguments: list[str], tmp_path: Path
) -> None:
    told = invoked(*arguments, XDG_STATE_HOME=str(tmp_path))

    assert told.exit_code == 2
    assert told.stdout == ""
    assert "--help" in told.stderr or "Usage: " in told.stderr


def test_all_mistakes_of_a_new_session_are_told_at_once(tmp_path: Path) -> None:
    told = invoked(
        *["session", "create", "", "--ip", "x", "--expires-in", "100d"],
        XDG_STATE_HOME=str(tmp_path),
    )

    assert told.exit_code == 2
    assert {"user_id", "ip", "expires_in"} <= {
        line.removeprefix("Error: ").partition(":")[0] for line in told.stderr.splitlines()
    }


def test_settings_that_are_right_are_ok(tmp_path: Path) -> None:
    told = sidegate(tmp_path, "config", "check")

    assert (told.returncode, told.stdout, told.stderr) == (0, "ok\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["config", "check"],
        ["config", "show"],
        ["serve"],
        ["migrate"],
        ["healthcheck"],
        ["session", "list", "alice"],
    ],
    ids=" ".join,
)
def test_wrong_settings_are_all_told_on_stderr_with_78(command: list[str], tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("gate: {deadline: soon}\nlog: {}")

    told = sidegate(tmp_path, *command, "--config", str(config), SIDEGATE_OPS__LISTEN="x")

    assert (told.returncode, told.stdout) == (78, "")
    for path in ("gate.deadline", "log", "ops.listen"):
        assert f"\n  {path}: " in told.stderr


def test_the_settings_are_shown_with_their_origin() -> None:
    told = invoked("config", "show", SIDEGATE_GATE__REALM="mine")

    assert yaml.safe_load(told.stdout)["gate"]["realm"] == "mine"
    assert "# SIDEGATE_GATE__REALM" in told.stdout


def test_the_schema_is_json() -> None:
    assert json.loads(invoked("config", "schema").stdout)["title"] == "Sidegate settings"


# --- keys and version


def test_a_new_api_key_comes_with_the_lines_the_settings_take(tmp_path: Path) -> None:
    told = invoked("key", "new", "ci", "--scope", "read", "--scope", "revoke").stdout

    key = told.splitlines()[0]
    (kept,) = yaml.safe_load(told.removeprefix(key))["admin"]["keys"]
    assert kept == {
        "name": "ci",
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "scopes": ["read", "revoke"],
    }
    config = tmp_path / "sidegate.yaml"
    config.write_text(told.removeprefix(key))
    assert invoked("config", "check", "--config", str(config)).exit_code == 0


def test_a_new_api_key_is_never_the_same() -> None:
    keys = {
        json.loads(invoked("key", "new", "ci", "--scope", "read", "-o", "json").stdout)["key"]
        for _ in range(3)
    }

    assert len(keys) == 3
    assert {(key[:4], len(key)) for key in keys} == {("sgk_", 47)}


def test_a_token_key_is_one_the_settings_take() -> None:
    line = invoked("key", "token", "--id", "7").stdout.strip()

    assert TokenKey.parse(line).id == 7


def test_the_version_is_told_to_people_and_programs() -> None:
    as_json = json.loads(invoked("version", "--output", "json").stdout)

    assert invoked("version").stdout.startswith(f"sidegate {as_json['version']}, Python 3.")


# --- sessions


def session(home: Path, *arguments: str) -> Result:
    """Run a session command on the embedded default in `home`."""
    return invoked("session", *arguments, XDG_STATE_HOME=str(home))


def created(home: Path, *options: str) -> dict[str, Any]:
    told = session(home, "create", *options, "-o", "json")
    assert told.exit_code == 0, told.stderr
    document: dict[str, Any] = json.loads(told.stdout)
    return document


def test_a_session_lives_from_create_to_revoke_and_its_token_is_told_once(tmp_path: Path) -> None:
    begun = created(
        tmp_path,
        *["alice", "--type", "api", "--scope", "a", "--scope", "b"],
        *["--expires-in", "1h", "--device", "laptop", "--metadata", '{"plan": "pro"}'],
    )
    session_id = begun["session"]["id"]

    shown = session(tmp_path, "show", session_id)
    listed = session(tmp_path, "list", "alice", "-o", "json")
    revoked = session(tmp_path, "revoke", session_id, "--reason", "stolen")
    again = session(tmp_path, "revoke", session_id, "-o", "json")
    living = session(tmp_path, "list", "alice", "-o", "json")
    ended = session(tmp_path, "list", "alice", "--ended")

    assert begun["session"]["scopes"] == ["a", "b"]
    assert begun["session"]["metadata"] == {"plan": "pro"}
    assert json.loads(listed.stdout) == [begun["session"]]
    assert json.loads(living.stdout) == []
    assert told_as(revoked.stdout, "revoked_reason") == "stolen"
    assert json.loads(again.stdout)["revoked_reason"] == "stolen"
    assert json.loads(again.stdout)["revoked_by"].startswith("cli:")
    assert [line.split()[:3] for line in ended.stdout.splitlines()[1:]] == [
        [session_id, "api", "revoked"]
    ]
    later = (shown, listed, revoked, again, living, ended)
    assert all(told.exit_code == 0 for told in later)
    assert begun["token"] not in "".join(told.stdout + told.stderr for told in later)


def test_an_sso_session_is_created_with_its_provider(tmp_path: Path) -> None:
    begun = created(
        tmp_path,
        *["alice", "--type", "sso", "--provider", "idp"],
        *["--provider-session", "s1", "--provider-subject", "u1"],
    )

    revoked = session(tmp_path, "revoke", "--provider", "idp", "--provider-session", "s1")

    assert begun["session"]["provider_subject"] == "u1"
    assert revoked.stdout == "revoked 1\n"


def test_stdout_holds_the_token_alone(tmp_path: Path) -> None:
    told = sidegate(tmp_path, "session", "create", "alice")

    (token,) = told.stdout.splitlines()
    assert token.startswith("sgw_")
    assert told_as(told.stderr, "user_id") == "alice"
    assert token not in told.stderr


def test_a_token_is_one_of_our_keys_and_is_not_stored(tmp_path: Path) -> None:
    token = created(tmp_path, "alice")["token"]

    home = tmp_path / "sidegate"
    ring = KeyRing([TokenKey.parse((home / "token.keys").read_text())])
    assert isinstance(ring.read(token), Token)
    for file in home.iterdir():
        assert token.encode() not in file.read_bytes()


def test_the_sessions_of_a_user_are_revoked_by_type_or_all(tmp_path: Path) -> None:
    for type_ in ("web", "mobile", "mobile"):
        created(tmp_path, "alice", "--type", type_)
    created(tmp_path, "bob")

    revoke = ("revoke", "--user", "alice")
    mobiles = session(tmp_path, *revoke, "--type", "mobile", "-o", "json")
    rest = session(tmp_path, *revoke)
    bobs = session(tmp_path, "list", "bob", "-o", "json")

    assert json.loads(mobiles.stdout) == {"revoked": 2}
    assert rest.stdout == "revoked 1\n"
    assert len(json.loads(bobs.stdout)) == 1


def test_sessions_are_ended_by_condition_after_a_dry_run(tmp_path: Path) -> None:
    for address in ("192.0.2.1", "192.0.2.2", "198.51.100.1"):
        created(tmp_path, "alice", "--ip", address, "--tenant", "north")

    which = ("revoke", "--ip-prefix", "192.0.2.0/24", "--tenant", "north")
    dry = session(tmp_path, *which, "--dry-run")
    done = session(tmp_path, *which)
    nobody = session(tmp_path, *which, "--dry-run", "-o", "json")
    everybody = session(tmp_path, "revoke", "--all", "-o", "json")

    assert (dry.stdout, done.stdout) == ("would revoke 2\n", "revoked 2\n")
    assert json.loads(nobody.stdout) == {"would_revoke": 0}
    assert json.loads(everybody.stdout) == {"revoked": 1}


@pytest.mark.parametrize(
    "options",
    [
        [],
        [NOBODY, "--user", "alice"],
        [NOBODY, "--dry-run"],
        ["--all", "--user", "alice"],
        ["--dry-run"],
        ["--ip-prefix", "192.0.2.1/24"],
        ["--created-before", "yesterday"],
        ["--except", "alice"],
    ],
)
def test_a_revocation_that_says_not_which_ends_nobody(tmp_path: Path, options: list[str]) -> None:
    created(tmp_path, "alice")
    told = session(tmp_path, "revoke", *options)
    assert told.exit_code == 2
    assert len(json.loads(session(tmp_path, "list", "alice", "-o", "json").stdout)) == 1


def test_a_list_can_be_of_one_state(tmp_path: Path) -> None:
    gone = created(tmp_path, "alice")["session"]["id"]
    created(tmp_path, "alice")
    session(tmp_path, "revoke", gone)
    told = session(tmp_path, "list", "alice", "--state", "revoked", "-o", "json")
    assert [each["id"] for each in json.loads(told.stdout)] == [gone]
    assert session(tmp_path, "list", "alice", "--state", "idle", "--ended").exit_code == 2


def test_the_audit_trail_is_listed_and_verified(tmp_path: Path) -> None:
    begun = created(tmp_path, "alice")["session"]["id"]
    session(tmp_path, "revoke", begun, "--reason", "stolen")

    listed = invoked("audit", "list", "--user", "alice", XDG_STATE_HOME=str(tmp_path))
    document = invoked(
        "audit", "list", "--action", "revoke", "-o", "json", XDG_STATE_HOME=str(tmp_path)
    )
    verified = invoked("audit", "verify", XDG_STATE_HOME=str(tmp_path))

    assert [line.split()[1] for line in listed.stdout.splitlines()[1:]] == ["revoke", "create"]
    [event] = json.loads(document.stdout)
    assert (event["session_id"], event["reason"]) == (begun, "stolen")
    assert event["by"].startswith("cli:")
    assert re.fullmatch(r"2 events, head 2:[0-9a-f]{64}\n", verified.stdout)


def test_the_analytics_are_as_of_a_sample_that_is_taken_when_it_is_due(tmp_path: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path), "SIDEGATE_ANALYTICS__INTERVAL": "1ms"}
    empty = json.loads(invoked("analytics", "-o", "json", **home).stdout)
    begun = created(tmp_path, "alice")["session"]["id"]
    created(tmp_path, "bob")
    session(tmp_path, "revoke", begun)

    told = invoked("analytics", "-o", "json", **home)
    shown = invoked("analytics", **home)

    assert empty["active"]["total"] == 0
    found = json.loads(told.stdout)
    hour = found["windows"]["1h"]
    assert (found["active"]["total"], found["active"]["users"]) == (1, 1)
    assert (hour["created"]["total"], hour["ended"]["by_cause"]["revoked"]) == (2, 1)
    table = [line.split() for line in shown.stdout.splitlines()]
    assert ["active", "1"] in table
    assert ["1h", "24h", "7d"] in table
    assert ["created", "2", "2", "2"] in table


def test_where_somebody_else_is_counting_for_the_first_time_nobody_knows_yet(
    tmp_path: Path,
) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path)}
    created(tmp_path, "alice")
    with closing(sqlite3.connect(tmp_path / "sidegate/sidegate.db")) as database, database:
        microseconds = time.time_ns() // 1000
        database.execute("UPDATE analytics_turn SET taken_at = ?", (microseconds,))
    told = invoked("analytics", **home)
    assert told.exit_code == 1
    assert "somebody has begun to" in told.stderr


def test_a_head_that_was_kept_finds_out_who_cut_the_trail(tmp_path: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path)}
    created(tmp_path, "alice")
    head = invoked("audit", "verify", **home).stdout.split()[-1]
    assert invoked("audit", "verify", "--head", head, **home).exit_code == 0

    with closing(sqlite3.connect(tmp_path / "sidegate/sidegate.db")) as database, database:
        database.execute("DELETE FROM audit_events")
    told = invoked("audit", "verify", "--head", head, "-o", "json", **home)

    assert told.exit_code == 1
    assert json.loads(told.stdout)["holds"] is False
    assert "link 1, which was known, is missing" in told.stderr


@pytest.mark.parametrize("head", ["", "1", "1:ab", "x:" + "0" * 64])
def test_a_head_is_written_as_it_was_printed(tmp_path: Path, head: str) -> None:
    told = invoked("audit", "verify", "--head", head, XDG_STATE_HOME=str(tmp_path))
    assert told.exit_code == 2


def test_a_list_that_was_cut_says_so(tmp_path: Path) -> None:
    for _ in range(2):
        created(tmp_path, "alice")

    told = session(tmp_path, "list", "alice", "--limit", "1", "-o", "json")

    assert len(json.loads(told.stdout)) == 1
    assert "--limit" in told.stderr


@pytest.mark.parametrize("verb", ["show", "revoke"])
def test_a_session_that_is_not_there_is_told_with_1(verb: str, tmp_path: Path) -> None:
    told = session(tmp_path, verb, NOBODY)

    assert (told.exit_code, told.stdout) == (1, "")
    assert "no session has this id" in told.stderr
    assert "sidegate session list" in told.stderr


def test_what_a_client_calls_itself_does_not_steer_the_terminal(tmp_path: Path) -> None:
    hostile = "evil\x1b[2J\nid  forged"
    session_id = created(tmp_path, "alice", "--device", hostile)["session"]["id"]

    told = session(tmp_path, "show", session_id).stdout

    assert "\x1b" not in told
    assert told_as(told, "device") == "evil\\x1b[2J\\nid  forged"


def test_a_store_that_does_not_answer_is_told_with_1_and_what_to_do(tmp_path: Path) -> None:
    nobody = f"postgresql://u:geheim@127.0.0.1:{free_port()}/x"

    told = sidegate(
        *(tmp_path, "session", "list", "alice"),
        SIDEGATE_DATABASE_URL=nobody,
        SIDEGATE_TOKEN__KEYS=TokenKey.generate().formatted(),
    )

    assert (told.returncode, told.stdout) == (1, "")
    assert "postgres cannot answer" in told.stderr
    assert "sidegate config show" in told.stderr
    assert "geheim" not in told.stderr


def test_a_login_beyond_the_limit_is_told_with_1_and_what_to_do(tmp_path: Path) -> None:
    settings = {"SIDEGATE_SESSIONS__WEB__LIMIT": "1", "SIDEGATE_SESSIONS__WEB__AT_LIMIT": "refuse"}
    created(tmp_path, "alice")

    told = sidegate(tmp_path, "session", "create", "alice", **settings)

    assert (told.returncode, told.stdout) == (1, "")
    assert "the user has 1 living web sessions (sessions.web.limit)" in told.stderr
    assert "sidegate session list USER" in told.stderr


def test_the_embedded_default_is_always_up_to_date(tmp_path: Path) -> None:
    assert sidegate(tmp_path, "migrate").stdout == "up to date\n"


# --- serving


@contextmanager
def serving(
    home: Path, *, through: Sequence[str] = (), **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """`sidegate serve` on free ports, from when it lives until it has ended.

    `through` is a command that runs the rest of its arguments.
    """
    ops = environ.setdefault("SIDEGATE_OPS__LISTEN", f"127.0.0.1:{free_port()}")
    ports = {f"SIDEGATE_{door}__LISTEN": "127.0.0.1:0" for door in ("GATE", "ADMIN")}
    rest = {"SIDEGATE_DRAIN__DELAY": "0", "SIDEGATE_GATE__FAST_PATH": FAST_PATH}
    with subprocess.Popen(
        [*through, sys.executable, "-m", "sidegate", "serve"],
        env=surroundings(home, **(ports | rest | environ)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until_alive(Address.parse(ops), process)
            yield process
        finally:
            process.kill()


def wait_until_alive(ops: Address, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            assert livez(ops) == 200
        except OSError:
            time.sleep(0.02)
        else:
            return
    process.kill()
    pytest.fail(f"serve does not live: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_until_it_is_told_to_stop_and_ends_well(
    number: signal.Signals, tmp_path: Path
) -> None:
    with serving(tmp_path) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, err) == (0, "")
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert "ready" in events


@pytest.mark.parametrize(
    "address", ["192.0.2.1:7080", "unix:/no/such/folder/gate.sock"], ids=["foreign", "no folder"]
)
def test_a_door_that_cannot_open_is_told_in_words(tmp_path: Path, address: str) -> None:
    doors = {f"SIDEGATE_{door}__LISTEN": "127.0.0.1:0" for door in ("ADMIN", "OPS")}
    told = sidegate(tmp_path, "serve", SIDEGATE_GATE__LISTEN=address, **doors)
    assert told.returncode == 1
    assert f"the gate door cannot open at {address}" in told.stderr
    assert "gate.listen" in told.stderr
    assert "Traceback" not in told.stderr


def test_healthcheck_asks_the_server_of_its_settings(tmp_path: Path) -> None:
    ops = f"unix:{tmp_path}/ops.sock"

    with serving(tmp_path, SIDEGATE_OPS__LISTEN=ops):
        alive = sidegate(tmp_path, "healthcheck", SIDEGATE_OPS__LISTEN=ops)
    dead = sidegate(tmp_path, "healthcheck", SIDEGATE_OPS__LISTEN=ops)

    assert (alive.returncode, alive.stdout) == (0, "ok\n")
    assert (dead.returncode, dead.stdout) == (1, "")
    assert "sidegate serve" in dead.stderr


def test_a_taken_address_is_told_with_1_and_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ops = f"127.0.0.1:{taken.getsockname()[1]}"
        told = sidegate(
            *(tmp_path, "serve"),
            SIDEGATE_OPS__LISTEN=ops,
            SIDEGATE_GATE__LISTEN="127.0.0.1:0",
            SIDEGATE_ADMIN__LISTEN="127.0.0.1:0",
        )

    assert told.returncode == 1
    assert "ops.listen" in told.stderr
    assert "Traceback" not in told.stderr


class _Ill(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, *_: object) -> None:
        return


def test_a_server_that_is_ill_fails_the_healthcheck() -> None:
    with HTTPServer(("127.0.0.1", 0), _Ill) as server:
        Thread(target=server.serve_forever).start()
        told = invoked("healthcheck", SIDEGATE_OPS__LISTEN=f"0.0.0.0:{server.server_port}")
        server.shutdown()

    assert told.exit_code == 1
    assert "answers 500" in told.stderr


def test_what_is_no_http_fails_the_healthcheck() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=_say_nonsense, args=[server]).start()
        told = invoked("healthcheck", SIDEGATE_OPS__LISTEN=f"127.0.0.1:{server.getsockname()[1]}")

    assert told.exit_code == 1
    assert "no HTTP" in told.stderr


def _say_nonsense(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
