"""The image: built from what is here, runs as nobody in particular, starts what exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING

from tests.deploy.files import ROOT, version

if TYPE_CHECKING:
    from pathlib import Path

Instruction = tuple[str, str]


def instructions() -> list[list[Instruction]]:
    """Each stage of the Dockerfile as (instruction, argument) pairs."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        name, _, argument = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if name:
            stages[-1].append((name, argument.strip()))
    return stages


BUILDER, RUNTIME = instructions()


def the(name: str) -> str:
    """The argument of the only such instruction of the runtime stage."""
    (argument,) = (argument for each, argument in RUNTIME if each == name)
    return argument


def copied() -> list[str]:
    """What the builder takes from the repository."""
    return [
        source for name, argument in BUILDER if name == "COPY" for source in argument.split()[:-1]
    ]


def test_both_stages_are_the_same_slim_python() -> None:
    bases = [stage[0][1].partition(" ")[0] for stage in (BUILDER, RUNTIME)]

    assert bases == ["python:3.13-slim"] * 2


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    assert the("USER") == "65532:65532"
    after = RUNTIME[RUNTIME.index(("USER", "65532:65532")) :]
    assert not {"RUN", "COPY"} & {name for name, _ in after}


def test_it_starts_a_command_that_the_distribution_installs() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert json.loads(the("ENTRYPOINT")) == ["sidegate"]
    assert json.loads(the("CMD")) == ["serve"]
    assert "sidegate" in scripts


def test_no_shell_stands_between() -> None:
    health = the("HEALTHCHECK").partition(" CMD ")[2]

    assert json.loads(health) == ["sidegate", "healthcheck"]
    assert json.loads(the("RUN"))[0] == "install"
    assert the("STOPSIGNAL") == "SIGTERM"


def test_every_package_is_pinned_by_its_hash() -> None:
    parts = re.findall(r"^# == (\w+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    installs = [
        command
        for name, argument in BUILDER
        if name == "RUN"
        for command in argument.split("&&")
        if re.search(r"\bpip\b.*\binstall\b", command)
    ]

    assert parts[:3] == ["runtime", "build", "demo"]
    assert len(installs) == 3
    assert all("--require-hashes" in each or "--no-deps" in each for each in installs)
    assert all("--no-cache-dir" in each for each in installs)


def test_the_data_folder_is_the_users_own_and_no_volume_hides_it() -> None:
    assert json.loads(the("RUN")) == [
        "install",
        "--directory",
        "--owner=65532",
        "--group=65532",
        "--mode=0750",
        "/var/lib/sidegate",
        "/run/sidegate",
    ]
    assert "SIDEGATE_DATA_DIR=/var/lib/sidegate" in the("ENV").split()
    assert "VOLUME" not in {name for name, _ in RUNTIME}


def test_no_secret_is_built_in_and_the_admin_port_is_not_offered() -> None:
    assert "ADD" not in {name for name, _ in BUILDER + RUNTIME}
    assert not re.search(r"SIDEGATE_\w*(URL|KEYS)", the("ENV"))
    assert the("EXPOSE").split() == ["7080", "7082"]


def test_the_labels_are_the_oci_ones_and_name_our_version() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', the("LABEL")))

    assert labels["version"] == version()
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision", "base.name"} <= labels.keys()


def test_what_is_copied_is_here_and_let_in_by_dockerignore() -> None:
    let_in = (ROOT / ".dockerignore").read_text().splitlines()

    for source in copied():
        assert (ROOT / source).exists(), source
        assert f"!{source.removeprefix('./')}" in let_in


def test_what_is_copied_is_enough_to_build_the_distribution(tmp_path: Path) -> None:
    context = tmp_path / "src"
    context.mkdir()
    for source in copied():
        subprocess.run(["cp", "-r", ROOT / source, context], check=True)
    wheel_from = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]

    subprocess.run(
        [*wheel_from, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, context],
        check=True,
        timeout=300,
    )

    (wheel,) = tmp_path.glob("sidegate-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    here = {
        str(file.relative_to(ROOT / "proxy"))
        for file in (ROOT / "proxy/sidegate").rglob("*")
        if file.suffix in (".py", ".sql", ".lua", ".typed")
    }
    assert here <= packed
