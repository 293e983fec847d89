"""The Dockerfile: its sources exist, it runs as an unprivileged user, its command exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING

from tests.deploy.files import ROOT, read_version

if TYPE_CHECKING:
    from pathlib import Path

Instruction = tuple[str, str]


def parse_dockerfile() -> list[list[Instruction]]:
    """Return each stage of the Dockerfile as (instruction, argument) pairs."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        name, _, argument = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if name:
            stages[-1].append((name, argument.strip()))
    return stages


BUILDER, RUNTIME = parse_dockerfile()


def find_argument(name: str) -> str:
    """Return the argument of the only such instruction of the runtime stage."""
    (argument,) = (argument for each, argument in RUNTIME if each == name)
    return argument


def list_copied() -> list[str]:
    """Return the paths that the builder copies from the repository."""
    return [
        source for name, argument in BUILDER if name == "COPY" for source in argument.split()[:-1]
    ]


def test_both_stages_have_the_same_base_image() -> None:
    bases = [stage[0][1].partition(" ")[0] for stage in (BUILDER, RUNTIME)]

    assert bases == ["python:3.13-slim"] * 2


def test_python_of_the_image_is_a_supported_version() -> None:
    version = find_argument("FROM").removeprefix("python:").removesuffix("-slim")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = [c.rpartition(" ")[2] for c in project["classifiers"] if ":: Python :: 3." in c]

    assert version in supported


def test_user_is_a_number_that_is_not_root() -> None:
    assert find_argument("USER") == "65532:65532"
    after = RUNTIME[RUNTIME.index(("USER", "65532:65532")) :]
    assert not {"RUN", "COPY"} & {name for name, _ in after}


def test_entrypoint_is_installed_by_the_distribution() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert json.loads(find_argument("ENTRYPOINT")) == ["sidegate"]
    assert json.loads(find_argument("CMD")) == ["serve"]
    assert "sidegate" in scripts


def test_commands_run_without_a_shell() -> None:
    health = find_argument("HEALTHCHECK").partition(" CMD ")[2]

    assert json.loads(health) == ["sidegate", "healthcheck"]
    assert json.loads(find_argument("RUN"))[0] == "install"
    assert find_argument("STOPSIGNAL") == "SIGTERM"


def test_packages_are_pinned_by_hash() -> None:
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


def test_data_folder_belongs_to_the_user_and_is_no_volume() -> None:
    assert json.loads(find_argument("RUN")) == [
        "install",
        "--directory",
        "--owner=65532",
        "--group=65532",
        "--mode=0750",
        "/var/lib/sidegate",
        "/run/sidegate",
    ]
    assert "SIDEGATE_DATA_DIR=/var/lib/sidegate" in find_argument("ENV").split()
    assert "VOLUME" not in {name for name, _ in RUNTIME}


def test_image_has_no_secrets_and_does_not_expose_the_admin_port() -> None:
    assert "ADD" not in {name for name, _ in BUILDER + RUNTIME}
    assert not re.search(r"SIDEGATE_\w*(URL|KEYS)", find_argument("ENV"))
    assert find_argument("EXPOSE").split() == ["7080", "7082"]


def test_image_has_oci_labels_with_the_current_version() -> None:
    labels = dict(
        re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', find_argument("LABEL"))
    )

    assert labels["version"] == read_version()
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision", "base.name"} <= labels.keys()


def test_copied_files_exist_and_are_not_ignored() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()

    for source in list_copied():
        assert (ROOT / source).exists(), source
        assert f"!{source.removeprefix('./')}" in patterns


def test_copied_files_are_enough_to_build_the_wheel(tmp_path: Path) -> None:
    context = tmp_path / "src"
    context.mkdir()
    for source in list_copied():
        subprocess.run(["cp", "-r", ROOT / source, context], check=True)
    wheel_from = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]

    subprocess.run(
        [*wheel_from, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, context],
        check=True,
        timeout=300,
    )

    (wheel,) = tmp_path.glob("sidegate-*.whl")
    packaged = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(file.relative_to(ROOT / "proxy"))
        for file in (ROOT / "proxy/sidegate").rglob("*")
        if file.suffix in (".py", ".sql", ".lua", ".typed")
    }
    assert sources <= packaged
