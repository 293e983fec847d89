"""The command line: its output and exit codes."""

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
from datetime import UTC, datetime
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
from sidegate.core.audit import Action
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.runtime.healthcheck import get_livez
from sidegate.settings import load
from tests.support.processes import START_TIMEOUT, find_free_port
from tests.support.sidegate import FAST_PATH

EX_TEMPFAIL = 75
UNKNOWN_ID = "01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a"


def build_environment(home: Path, **more: str) -> dict[str, str]:
    """Return this process's environment, with variables of a coverage run."""
    return os.environ | {"XDG_STATE_HOME": str(home)} | more


def run_program(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sidegate", *arguments],
        env=build_environment(home, **environ),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        check=False,
    )


def run_command(*arguments: str, **environ: str) -> Result:
    """Run a command in this process, which is faster."""
    return CliRunner(env=environ).invoke(main, arguments, prog_name="sidegate")


def list_commands() -> Iterator[list[str]]:
    def walk(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        yield path
        if isinstance(command, click.Group):
            for name, subcommand in command.commands.items():
                yield from walk(subcommand, [*path, name])

    yield from walk(main, [])


# --- Help, usage errors, wrong settings


def test_cleanup_prints_the_number_of_deleted_sessions(tmp_path: Path) -> None:
    settings = {
        "SIDEGATE_SESSIONS__WEB__LIFETIME": "1ms",
        "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "none",
        "SIDEGATE_CLEANUP__RETENTION": "0s",
        "SIDEGATE_CLEANUP__BATCH": "2",
    }
    for _ in range(3):
        assert run_program(tmp_path, "session", "create", "alice", **settings).returncode == 0
    result = run_program(tmp_path, "cleanup", **settings)
    assert result.returncode == 0
    assert result.stdout == "3 sessions deleted\n"
    assert "2 deleted so far" in result.stderr


def read_field(record: str, name: str) -> str | None:
    """Return the value on the line of that name, or None."""
    match = re.search(rf"^{name} +(.*)$", record, re.MULTILINE)
    return match[1] if match else None


@pytest.mark.parametrize("command", [*list_commands()], ids=" ".join)
def test_every_command_has_help_with_examples(command: list[str]) -> None:
    result = run_command(*command, "--help")

    assert result.exit_code == 0
    assert "Examples:\n" in result.output
    assert (
        f"\n    {' '.join(['sidegate', *command])}" in result.output or "SIDEGATE_" in result.output
    )


def test_commands_exist() -> None:
    commands = {" ".join(path) for path in list_commands()}

    assert commands >= {
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


def test_help_imports_nothing_but_click(tmp_path: Path) -> None:
    code = "import sys, sidegate.cli.main"
    code += "; print(*sorted({m.partition('.')[0] for m in sys.modules}))"

    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=build_environment(tmp_path),
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
        ["session", "create", "a", "--metadata", '{"k": NaN}'],
        ["session", "create", "a", "--metadata", '{"k": 1, "k": 2}'],
        ["session", "create", " a"],
        ["session", "create", "a", "--provider", "idp"],
        ["session", "create", "a", "--type", "sso", "--provider-session", "s1"],
        ["session", "show", "42"],
        ["session", "list", ""],
        ["session", "revoke"],
        ["session", "revoke", UNKNOWN_ID, "--user", "alice"],
        ["session", "revoke", UNKNOWN_ID, "--type", "web"],
        ["session", "revoke", UNKNOWN_ID, "--reason", ""],
    ],
    ids=" ".join,
)
def test_usage_error_is_printed_to_stderr_with_exit_code_2(
    arguments: list[str], tmp_path: Path
) -> None:
    result = run_command(*arguments, XDG_STATE_HOME=str(tmp_path))

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--help" in result.stderr or "Usage: " in result.stderr


def test_metadata_nested_too_deeply_is_a_usage_error(tmp_path: Path) -> None:
    nested = '{"k": ' + "[" * 5_000 + "]" * 5_000 + "}"
    result = run_session_command(tmp_path, "create", "alice", "--metadata", nested)
    assert result.exit_code == 2
    assert "use a JSON object" in result.stderr


def test_all_errors_of_a_new_session_are_reported_together(tmp_path: Path) -> None:
    result = run_command(
        *["session", "create", "", "--ip", "x", "--expires-in", "100d"],
        XDG_STATE_HOME=str(tmp_path),
    )

    assert result.exit_code == 2
    assert {"user_id", "ip", "expires_in"} <= {
        line.removeprefix("Error: ").partition(":")[0] for line in result.stderr.splitlines()
    }


def test_session_with_an_oversized_identity_is_not_created(tmp_path: Path) -> None:
    result = run_command(
        *["session", "create", "alice", "--scope", "x" * 1000],
        XDG_STATE_HOME=str(tmp_path),
        SIDEGATE_GATE__MAX_IDENTITY="1KiB",
    )

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: the identity headers take at most 1024 bytes (gate.max_identity); "
        "these would take 1162\nGive it fewer scopes, or raise gate.max_identity.\n"
    )
    assert run_session_command(tmp_path, "list", "alice", "-o", "json").stdout == "[]\n"


def test_config_check_prints_ok_and_creates_no_file(tmp_path: Path) -> None:
    result = run_program(tmp_path, "config", "check")

    assert (result.returncode, result.stdout, result.stderr) == (0, "ok\n", "")
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
def test_all_wrong_settings_are_printed_with_exit_code_78(
    command: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("gate: {deadline: soon}\nlog: {}")

    result = run_program(tmp_path, *command, "--config", str(config), SIDEGATE_OPS__LISTEN="x")

    assert (result.returncode, result.stdout) == (78, "")
    for path in ("gate.deadline", "log", "ops.listen"):
        assert f"\n  {path}: " in result.stderr


def test_config_show_prints_settings_with_their_origin() -> None:
    result = run_command("config", "show", SIDEGATE_GATE__REALM="mine")

    assert yaml.safe_load(result.stdout)["gate"]["realm"] == "mine"
    assert "# SIDEGATE_GATE__REALM" in result.stdout


def test_config_schema_prints_json() -> None:
    assert json.loads(run_command("config", "schema").stdout)["title"] == "Sidegate settings"


# --- Keys and version


def test_new_api_key_is_printed_with_valid_settings(tmp_path: Path) -> None:
    result = run_command("key", "new", "ci", "--scope", "read", "--scope", "revoke").stdout

    key = result.splitlines()[0]
    (kept,) = yaml.safe_load(result.removeprefix(key))["admin"]["keys"]
    assert kept == {
        "name": "ci",
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "scopes": ["read", "revoke"],
    }
    config = tmp_path / "sidegate.yaml"
    config.write_text(result.removeprefix(key))
    assert run_command("config", "check", "--config", str(config)).exit_code == 0


def test_keys_file_has_the_hash_of_each_new_key(tmp_path: Path) -> None:
    keys_file = tmp_path / "admin-keys"

    keys = [
        run_command("key", "new", name, "--scope", "write", "--keys-file", str(keys_file)).stdout
        for name in ("one", "two")
    ]

    assert json.loads(keys_file.read_text()) == [
        {
            "name": name,
            "sha256": hashlib.sha256(key.strip().encode()).hexdigest(),
            "scopes": ["write"],
        }
        for name, key in zip(("one", "two"), keys, strict=True)
    ]
    checked = run_command("config", "check", SIDEGATE_ADMIN__KEYS_FILE=str(keys_file))
    assert checked.exit_code == 0


def test_new_api_key_may_expire(tmp_path: Path) -> None:
    options = ("--scope", "read", "--expires-at", "2027-01-31T12:00:00+02:00")
    printed = run_command("key", "new", "ci", *options).stdout
    config = tmp_path / "sidegate.yaml"
    config.write_text(printed.removeprefix(printed.splitlines()[0]))

    [key] = load(config, {}).admin.keys

    assert key.expires_at == datetime(2027, 1, 31, 10, tzinfo=UTC)
    for wrong in ("tomorrow", "2027-01-31", "2027-01-31T12:00:00"):
        refused = run_command("key", "new", "ci", "--scope", "read", "--expires-at", wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "--expires-at" in refused.stderr


def test_expiry_without_a_time_zone_is_a_settings_error(tmp_path: Path) -> None:
    config = tmp_path / "sidegate.yaml"
    key = {"name": "ci", "sha256": "0" * 64, "scopes": ["read"]}
    config.write_text(json.dumps({"admin": {"keys": [key | {"expires_at": "2027-01-31"}]}}))

    checked = run_command("config", "check", "--config", str(config))

    assert checked.exit_code == 78
    assert "admin.keys[0].expires_at: write a time with its zone" in checked.stderr


def test_actions_of_the_audit_trail_are_those_that_exist() -> None:
    for action in Action:
        assert action in run_command("audit", "list", "--help").stdout


@pytest.mark.parametrize(("existing", "mode"), [(None, 0o600), ("[]", 0o640), ("\n", 0o640)])
def test_new_keys_file_is_private_and_an_existing_one_keeps_its_mode(
    existing: str | None, mode: int, tmp_path: Path
) -> None:
    keys_file = tmp_path / "admin-keys"
    if existing is not None:
        keys_file.write_text(existing)
        keys_file.chmod(mode)

    run_command("key", "new", "ci", "--scope", "read", "--keys-file", str(keys_file))

    assert keys_file.stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["admin-keys"]


@pytest.mark.parametrize(
    "text", ['[{"name": "ci"}]', "{}", "[1]", "not JSON"], ids=["same name", "object", "1", "text"]
)
def test_keys_file_that_cannot_take_the_key_is_left_unchanged(text: str, tmp_path: Path) -> None:
    keys_file = tmp_path / "admin-keys"
    keys_file.write_text(text)

    result = run_command("key", "new", "ci", "--scope", "read", "--keys-file", str(keys_file))

    assert (result.exit_code, result.stdout) == (2, "")
    assert "--keys-file" in result.stderr
    assert keys_file.read_text() == text


def test_keys_file_in_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    keys_file = tmp_path / "missing" / "admin-keys"

    result = run_command("key", "new", "ci", "--scope", "read", "--keys-file", str(keys_file))

    assert (result.exit_code, result.stdout) == (2, "")


def test_api_keys_are_unique() -> None:
    keys = {
        json.loads(run_command("key", "new", "ci", "--scope", "read", "-o", "json").stdout)["key"]
        for _ in range(3)
    }

    assert len(keys) == 3
    assert {(key[:4], len(key)) for key in keys} == {("sgk_", 47)}


def test_token_key_has_the_format_of_the_settings() -> None:
    line = run_command("key", "token", "--id", "7").stdout.strip()

    assert TokenKey.parse(line).id == 7


def test_version_is_printed_as_text_and_json() -> None:
    as_json = json.loads(run_command("version", "--output", "json").stdout)

    assert run_command("version").stdout.startswith(f"sidegate {as_json['version']}, Python 3.")


# --- Sessions


def run_session_command(home: Path, *arguments: str) -> Result:
    """Run a session command on the SQLite file in `home`."""
    return run_command("session", *arguments, XDG_STATE_HOME=str(home))


def create_session(home: Path, *options: str) -> dict[str, Any]:
    result = run_session_command(home, "create", *options, "-o", "json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_session_is_created_shown_listed_and_revoked(tmp_path: Path) -> None:
    created = create_session(
        tmp_path,
        *["alice", "--type", "api", "--scope", "a", "--scope", "b"],
        *["--expires-in", "1h", "--device", "laptop", "--metadata", '{"plan": "pro"}'],
    )
    session_id = created["session"]["id"]

    shown = run_session_command(tmp_path, "show", session_id)
    listed = run_session_command(tmp_path, "list", "alice", "-o", "json")
    revoked = run_session_command(tmp_path, "revoke", session_id, "--reason", "stolen")
    again = run_session_command(tmp_path, "revoke", session_id, "-o", "json")
    active = run_session_command(tmp_path, "list", "alice", "-o", "json")
    ended = run_session_command(tmp_path, "list", "alice", "--ended")

    assert created["session"]["scopes"] == ["a", "b"]
    assert created["session"]["metadata"] == {"plan": "pro"}
    assert json.loads(listed.stdout) == [created["session"]]
    assert json.loads(active.stdout) == []
    assert read_field(revoked.stdout, "revoked_reason") == "stolen"
    assert json.loads(again.stdout)["revoked_reason"] == "stolen"
    assert json.loads(again.stdout)["revoked_by"].startswith("cli:")
    assert [line.split()[:3] for line in ended.stdout.splitlines()[1:]] == [
        [session_id, "api", "revoked"]
    ]
    later = (shown, listed, revoked, again, active, ended)
    assert all(result.exit_code == 0 for result in later)
    assert created["token"] not in "".join(result.stdout + result.stderr for result in later)


def test_sso_session_is_created_with_its_provider(tmp_path: Path) -> None:
    created = create_session(
        tmp_path,
        *["alice", "--type", "sso", "--provider", "idp"],
        *["--provider-session", "s1", "--provider-subject", "u1"],
    )

    revoked = run_session_command(
        tmp_path, "revoke", "--provider", "idp", "--provider-session", "s1"
    )

    assert created["session"]["provider_subject"] == "u1"
    assert revoked.stdout == "revoked 1\n"


def test_stdout_of_create_is_only_the_token(tmp_path: Path) -> None:
    result = run_program(tmp_path, "session", "create", "alice")

    (token,) = result.stdout.splitlines()
    assert token.startswith("sgw_")
    assert read_field(result.stderr, "user_id") == "alice"
    assert token not in result.stderr


def test_token_is_valid_for_the_key_and_not_stored(tmp_path: Path) -> None:
    token = create_session(tmp_path, "alice")["token"]

    home = tmp_path / "sidegate"
    ring = KeyRing([TokenKey.parse((home / "token.keys").read_text())])
    assert isinstance(ring.parse(token), Token)
    for file in home.iterdir():
        assert token.encode() not in file.read_bytes()


def test_sessions_of_a_user_are_revoked_by_type_or_all(tmp_path: Path) -> None:
    for type_ in ("web", "mobile", "mobile"):
        create_session(tmp_path, "alice", "--type", type_)
    create_session(tmp_path, "bob")

    revoke = ("revoke", "--user", "alice")
    mobiles = run_session_command(tmp_path, *revoke, "--type", "mobile", "-o", "json")
    rest = run_session_command(tmp_path, *revoke)
    bobs = run_session_command(tmp_path, "list", "bob", "-o", "json")

    assert json.loads(mobiles.stdout) == {"revoked": 2, "still_active": 0}
    assert rest.stdout == "revoked 1\n"
    assert len(json.loads(bobs.stdout)) == 1


def test_dry_run_counts_the_sessions_that_a_condition_revokes(tmp_path: Path) -> None:
    for address in ("192.0.2.1", "192.0.2.2", "198.51.100.1"):
        create_session(tmp_path, "alice", "--ip", address, "--tenant", "north")

    which = ("revoke", "--ip-prefix", "192.0.2.0/24", "--tenant", "north")
    before = run_session_command(tmp_path, *which, "--dry-run")
    revoked = run_session_command(tmp_path, *which)
    after = run_session_command(tmp_path, *which, "--dry-run", "-o", "json")
    all_others = run_session_command(tmp_path, "revoke", "--all", "-o", "json")

    assert (before.stdout, revoked.stdout) == ("would revoke 2\n", "revoked 2\n")
    assert json.loads(after.stdout) == {"would_revoke": 0}
    assert json.loads(all_others.stdout) == {"revoked": 1, "still_active": 0}


def test_revocation_that_matches_no_active_session_says_so(tmp_path: Path) -> None:
    create_session(tmp_path, "alice")
    run_session_command(tmp_path, "revoke", "--user", "alice")
    for options in (("--user", "alice"), ("--user", "bob")):
        result = run_session_command(tmp_path, "revoke", *options)
        assert (result.exit_code, result.stdout) == (0, "revoked 0: no active session matches\n")
        as_json = run_session_command(tmp_path, "revoke", *options, "-o", "json")
        assert json.loads(as_json.stdout) == {"revoked": 0, "still_active": 0}


def prevent_revocations(home: Path) -> None:
    """Let the database ignore every revocation."""
    with closing(sqlite3.connect(home / "sidegate" / "sidegate.db")) as connection:
        connection.execute(
            "CREATE TRIGGER ignored BEFORE UPDATE OF revoked_at ON sessions"
            " BEGIN SELECT RAISE(IGNORE); END"
        )


def test_revocation_after_which_sessions_are_active_fails(tmp_path: Path) -> None:
    session_id, _ = (create_session(tmp_path, "alice")["session"]["id"] for _ in range(2))
    prevent_revocations(tmp_path)
    many = run_session_command(tmp_path, "revoke", "--user", "alice")
    as_json = run_session_command(tmp_path, "revoke", "--user", "alice", "-o", "json")
    single = run_session_command(tmp_path, "revoke", session_id)
    assert [result.exit_code for result in (many, as_json, single)] == [1, 1, 1]
    assert many.stdout == ""
    for result in (many, as_json):
        assert "revoked 0; 2 matching sessions are still active" in result.stderr
    assert json.loads(as_json.stdout) == {"revoked": 0, "still_active": 2}
    assert read_field(single.stdout, "state") == "active"
    assert "the session is still active" in single.stderr


@pytest.mark.parametrize(
    "options",
    [
        [],
        [UNKNOWN_ID, "--user", "alice"],
        [UNKNOWN_ID, "--dry-run"],
        ["--all", "--user", "alice"],
        ["--dry-run"],
        ["--ip-prefix", "192.0.2.1/24"],
        ["--created-before", "yesterday"],
        ["--except", "alice"],
    ],
)
def test_revocation_with_a_wrong_selection_revokes_nothing(
    tmp_path: Path, options: list[str]
) -> None:
    create_session(tmp_path, "alice")
    result = run_session_command(tmp_path, "revoke", *options)
    assert result.exit_code == 2
    assert len(json.loads(run_session_command(tmp_path, "list", "alice", "-o", "json").stdout)) == 1


def test_list_filters_by_state(tmp_path: Path) -> None:
    revoked_id = create_session(tmp_path, "alice")["session"]["id"]
    create_session(tmp_path, "alice")
    run_session_command(tmp_path, "revoke", revoked_id)
    result = run_session_command(tmp_path, "list", "alice", "--state", "revoked", "-o", "json")
    assert [each["id"] for each in json.loads(result.stdout)] == [revoked_id]
    assert (
        run_session_command(tmp_path, "list", "alice", "--state", "idle", "--ended").exit_code == 2
    )


def test_audit_trail_is_listed_and_verified(tmp_path: Path) -> None:
    created = create_session(tmp_path, "alice")["session"]["id"]
    run_session_command(tmp_path, "revoke", created, "--reason", "stolen")

    listed = run_command("audit", "list", "--user", "alice", XDG_STATE_HOME=str(tmp_path))
    document = run_command(
        "audit", "list", "--action", "revoke", "-o", "json", XDG_STATE_HOME=str(tmp_path)
    )
    verified = run_command("audit", "verify", XDG_STATE_HOME=str(tmp_path))

    assert [line.split()[1] for line in listed.stdout.splitlines()[1:]] == ["revoke", "create"]
    [event] = json.loads(document.stdout)
    assert (event["session_id"], event["reason"]) == (created, "stolen")
    assert event["by"].startswith("cli:")
    assert re.fullmatch(r"2 events, head 2:[0-9a-f]{64}\n", verified.stdout)


def test_analytics_takes_a_sample_that_is_due(tmp_path: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path), "SIDEGATE_ANALYTICS__INTERVAL": "1ms"}
    empty = json.loads(run_command("analytics", "-o", "json", **home).stdout)
    created = create_session(tmp_path, "alice")["session"]["id"]
    create_session(tmp_path, "bob")
    run_session_command(tmp_path, "revoke", created)

    result = run_command("analytics", "-o", "json", **home)
    shown = run_command("analytics", **home)

    assert empty["active"]["total"] == 0
    report = json.loads(result.stdout)
    hour = report["windows"]["1h"]
    assert (report["active"]["total"], report["active"]["users"]) == (1, 1)
    assert (hour["created"]["total"], hour["ended"]["by_cause"]["revoked"]) == (2, 1)
    table = [line.split() for line in shown.stdout.splitlines()]
    assert ["active", "1"] in table
    assert ["1h", "24h", "7d"] in table
    assert ["created", "2", "2", "2"] in table


def test_analytics_exits_75_while_another_instance_takes_the_first_sample(
    tmp_path: Path,
) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path)}
    create_session(tmp_path, "alice")
    with closing(sqlite3.connect(tmp_path / "sidegate/sidegate.db")) as database, database:
        microseconds = time.time_ns() // 1000
        database.execute("UPDATE analytics_sampling SET reserved_at = ?", (microseconds,))
    result = run_command("analytics", **home)
    assert result.exit_code == EX_TEMPFAIL
    assert "another instance is taking the first one" in result.stderr


def test_verify_with_a_known_head_detects_a_truncated_trail(tmp_path: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path)}
    create_session(tmp_path, "alice")
    head = run_command("audit", "verify", **home).stdout.split()[-1]
    assert run_command("audit", "verify", "--head", head, **home).exit_code == 0

    with closing(sqlite3.connect(tmp_path / "sidegate/sidegate.db")) as database, database:
        database.execute("DELETE FROM audit_events")
    result = run_command("audit", "verify", "--head", head, "-o", "json", **home)

    assert result.exit_code == 1
    assert json.loads(result.stdout)["intact"] is False
    assert "link 1 of the known seal is missing" in result.stderr


@pytest.mark.parametrize("head", ["", "1", "1:ab", "x:" + "0" * 64])
def test_malformed_head_is_a_usage_error(tmp_path: Path, head: str) -> None:
    result = run_command("audit", "verify", "--head", head, XDG_STATE_HOME=str(tmp_path))
    assert result.exit_code == 2


def test_truncated_list_is_reported(tmp_path: Path) -> None:
    for _ in range(2):
        create_session(tmp_path, "alice")

    result = run_session_command(tmp_path, "list", "alice", "--limit", "1", "-o", "json")

    assert len(json.loads(result.stdout)) == 1
    assert "--limit" in result.stderr


@pytest.mark.parametrize("verb", ["show", "revoke"])
def test_unknown_session_fails_with_exit_code_1(verb: str, tmp_path: Path) -> None:
    result = run_session_command(tmp_path, verb, UNKNOWN_ID)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "no session has this id" in result.stderr
    assert "sidegate session list" in result.stderr


def test_control_characters_of_a_client_are_escaped(tmp_path: Path) -> None:
    hostile = "evil\x1b[2J\nid  forged"
    session_id = create_session(tmp_path, "alice", "--device", hostile)["session"]["id"]

    result = run_session_command(tmp_path, "show", session_id).stdout

    assert "\x1b" not in result
    assert read_field(result, "device") == "evil\\x1b[2J\\nid  forged"


def test_unavailable_store_fails_with_exit_code_1_and_advice(tmp_path: Path) -> None:
    url = f"postgresql://u:geheim@127.0.0.1:{find_free_port()}/x"

    result = run_program(
        *(tmp_path, "session", "list", "alice"),
        SIDEGATE_DATABASE_URL=url,
        SIDEGATE_TOKEN__KEYS=TokenKey.generate().format(),
    )

    assert (result.returncode, result.stdout) == (1, "")
    assert "postgres is unavailable" in result.stderr
    assert "sidegate config show" in result.stderr
    assert "geheim" not in result.stderr


def test_create_above_the_limit_fails_with_exit_code_1_and_advice(tmp_path: Path) -> None:
    settings = {"SIDEGATE_SESSIONS__WEB__LIMIT": "1", "SIDEGATE_SESSIONS__WEB__AT_LIMIT": "refuse"}
    create_session(tmp_path, "alice")

    result = run_program(tmp_path, "session", "create", "alice", **settings)

    assert (result.returncode, result.stdout) == (1, "")
    assert "the user has 1 active web sessions (sessions.web.limit)" in result.stderr
    assert "sidegate session list USER" in result.stderr


def test_migrate_of_sqlite_is_up_to_date(tmp_path: Path) -> None:
    assert run_program(tmp_path, "migrate").stdout == "up to date\n"


# --- Serving


@contextmanager
def run_server(
    home: Path, *, wrapper: Sequence[str] = (), **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """Run `sidegate serve` on free ports, and yield it when it responds.

    `wrapper` is a command that runs the rest of its arguments.
    """
    ops = environ.setdefault("SIDEGATE_OPS__LISTEN", f"127.0.0.1:{find_free_port()}")
    ports = {f"SIDEGATE_{name}__LISTEN": "127.0.0.1:0" for name in ("GATE", "ADMIN")}
    others = {"SIDEGATE_DRAIN__DELAY": "0", "SIDEGATE_GATE__FAST_PATH": FAST_PATH}
    with subprocess.Popen(
        [*wrapper, sys.executable, "-m", "sidegate", "serve"],
        env=build_environment(home, **(ports | others | environ)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for_livez(Address.parse(ops), process)
            yield process
        finally:
            process.kill()


def wait_for_livez(ops: Address, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            assert get_livez(ops) == 200
        except OSError:
            time.sleep(0.02)
        else:
            return
    process.kill()
    pytest.fail(f"the server does not respond: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_exits_with_0_on_a_termination_signal(number: signal.Signals, tmp_path: Path) -> None:
    with run_server(tmp_path) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=START_TIMEOUT)

    assert (process.returncode, err) == (0, "")
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert "ready" in events


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1:7080", "unix:/no/such/folder/gate.sock"],
    ids=["not a local address", "no directory"],
)
def test_address_that_cannot_be_bound_is_reported(tmp_path: Path, address: str) -> None:
    ports = {f"SIDEGATE_{name}__LISTEN": "127.0.0.1:0" for name in ("ADMIN", "OPS")}
    result = run_program(tmp_path, "serve", SIDEGATE_GATE__LISTEN=address, **ports)
    assert result.returncode == 1
    assert f"the gate listener cannot open at {address}" in result.stderr
    assert "gate.listen" in result.stderr
    assert "Traceback" not in result.stderr


def test_healthcheck_requests_the_server_of_its_settings(tmp_path: Path) -> None:
    ops = f"unix:{tmp_path}/ops.sock"

    with run_server(tmp_path, SIDEGATE_OPS__LISTEN=ops):
        running = run_program(tmp_path, "healthcheck", SIDEGATE_OPS__LISTEN=ops)
    stopped = run_program(tmp_path, "healthcheck", SIDEGATE_OPS__LISTEN=ops)

    assert (running.returncode, running.stdout) == (0, "ok\n")
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert "sidegate serve" in stopped.stderr


def test_taken_address_fails_with_exit_code_1_and_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ops = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run_program(
            *(tmp_path, "serve"),
            SIDEGATE_OPS__LISTEN=ops,
            SIDEGATE_GATE__LISTEN="127.0.0.1:0",
            SIDEGATE_ADMIN__LISTEN="127.0.0.1:0",
        )

    assert result.returncode == 1
    assert "ops.listen" in result.stderr
    assert "Traceback" not in result.stderr


class _FailingHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, *_: object) -> None:
        return


def test_healthcheck_fails_on_status_500() -> None:
    with HTTPServer(("127.0.0.1", 0), _FailingHandler) as server:
        Thread(target=server.serve_forever).start()
        result = run_command("healthcheck", SIDEGATE_OPS__LISTEN=f"0.0.0.0:{server.server_port}")
        server.shutdown()

    assert result.exit_code == 1
    assert "responded with status 500" in result.stderr


def test_healthcheck_fails_on_a_response_that_is_not_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=_send_ssh_banner, args=[server]).start()
        result = run_command(
            "healthcheck", SIDEGATE_OPS__LISTEN=f"127.0.0.1:{server.getsockname()[1]}"
        )

    assert result.exit_code == 1
    assert "not HTTP" in result.stderr


def _send_ssh_banner(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
