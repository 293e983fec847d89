"""The settings file that the server and every command use, and the database that they name."""

import os
from pathlib import Path

import pytest

from sidegate.settings.sources import DEFAULT_CONFIG, find_config
from tests.cli.test_cli import run_program

NAMED = Path("/named/sidegate.yaml")


@pytest.mark.parametrize(
    ("option", "environ", "has_default", "found"),
    [
        (NAMED, {"SIDEGATE_CONFIG": "/other.yaml"}, True, NAMED),
        (None, {"SIDEGATE_CONFIG": str(NAMED)}, True, NAMED),
        (None, {"SIDEGATE_CONFIG": ""}, False, None),
        (None, {}, False, None),
    ],
    ids=["option", "variable", "empty variable", "none"],
)
def test_first_source_that_names_a_file_is_used(
    tmp_path: Path,
    option: Path | None,
    environ: dict[str, str],
    *,
    has_default: bool,
    found: Path | None,
) -> None:
    default = tmp_path / "sidegate.yaml"
    if has_default:
        default.touch()
    assert find_config(option, environ, default=default) == found


def test_default_file_is_used_where_it_exists(tmp_path: Path) -> None:
    default = tmp_path / "sidegate.yaml"
    default.touch()
    assert find_config(None, {}, default=default) == default
    assert Path("/etc/sidegate/sidegate.yaml") == DEFAULT_CONFIG


def test_file_of_the_variable_is_read(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(f"data_dir: {tmp_path}/elsewhere\n")
    done = run_program(tmp_path, "session", "create", "alice", SIDEGATE_CONFIG=str(config))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "sidegate.db").exists()
    assert f"database: SQLite in {tmp_path}/elsewhere" in done.stderr


def test_absent_file_of_the_variable_is_an_error(tmp_path: Path) -> None:
    done = run_program(
        tmp_path, "session", "list", "alice", SIDEGATE_CONFIG=str(tmp_path / "absent.yaml")
    )
    assert done.returncode == os.EX_CONFIG
    assert "absent.yaml" in done.stderr


@pytest.mark.parametrize(
    "command",
    [("session", "create", "alice"), ("session", "revoke", "--user", "alice"), ("cleanup",)],
    ids=" ".join,
)
def test_command_that_changes_something_names_the_database(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = run_program(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert "database: SQLite in " in done.stderr
