"""A program that cannot be built is left out, with the reason."""

from pathlib import Path

import pytest

from tests.bench.compilers import build_go, build_rust
from tests.bench.errors import NotMeasurable


def install(compiler: str, directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a compiler on the PATH, before the real one."""
    program = directory / compiler
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def test_failed_build_is_not_measurable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("go", tmp_path, monkeypatch, "echo compiling >&2; echo no network >&2; exit 1")

    with pytest.raises(NotMeasurable, match="go could not build it: no network"):
        build_go("go-reference")


def test_failed_build_without_a_message_is_not_measurable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("cargo", tmp_path, monkeypatch, "exit 101")

    with pytest.raises(NotMeasurable, match="cargo could not build it: without a message"):
        build_rust("rust-reference")


def test_unknown_compiler_is_not_measurable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.bench.compilers._DIRECTORIES", ())

    with pytest.raises(NotMeasurable, match="go is not installed"):
        build_go("go-reference")


def test_go_builds_with_the_installed_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("go", tmp_path, monkeypatch, f'echo "$GOTOOLCHAIN $*" >{tmp_path}/called')

    program = build_go("open-loop")

    assert (tmp_path / "called").read_text() == f"local build -o {program} .\n"
