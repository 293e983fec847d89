"""Pages and configurations that are generated from the code are those that it gives."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, ROOT / ".ci/reference.py", folder], check=True)
    return folder


def test_generated_files_are_up_to_date(generated: Path) -> None:
    files = [path.relative_to(generated) for path in generated.rglob("*") if path.is_file()]

    stale = [
        str(file)
        for file in files
        if not (ROOT / file).exists()
        or (ROOT / file).read_text("utf-8") != (generated / file).read_text("utf-8")
    ]

    assert stale == [], "run ./dev reference"


def test_what_is_documented_as_generated_is_generated(generated: Path) -> None:
    for file in (
        "docs/reference/api.md",
        "docs/reference/configuration.md",
        "docs/reference/metrics.md",
        "docs/gateways/nginx.md",
        "deploy/nginx/nginx.conf",
        "deploy/traefik/dynamic.yaml",
        "deploy/haproxy/sidegate.lua",
    ):
        assert (generated / file).exists()


@pytest.mark.parametrize("name", ["nginx", "traefik", "envoy", "caddy", "haproxy"])
def test_directory_of_a_gateway_has_only_generated_files(generated: Path, name: str) -> None:
    committed = {path.name for path in (ROOT / "deploy" / name).iterdir()}

    assert committed == {path.name for path in (generated / "deploy" / name).iterdir()}
