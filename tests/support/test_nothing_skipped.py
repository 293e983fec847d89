"""The pytest plugin of the CI that fails runs with skipped tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin on one file, without this project's own settings."""
    (folder / "test_it.py").write_text(f"import pytest\n{source}")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.nothing_skipped"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "source",
    [
        "def test_x(): pytest.skip('no server')",
        "@pytest.mark.skip\ndef test_x(): ...\ndef test_y(): ...",
        "pytest.skip('no server', allow_module_level=True)",
        "pytest.importorskip('a_missing_library')",
    ],
)
def test_skip_fails_the_run_and_is_listed(source: str, tmp_path: Path) -> None:
    done = run(tmp_path, source)

    assert done.returncode != 0
    assert "skipped tests fail this run" in done.stdout
    assert "test_it.py" in done.stdout.partition("skipped tests fail this run")[2]


@pytest.mark.parametrize(
    "source",
    ["def test_x(): ...", "@pytest.mark.xfail\ndef test_x(): assert 0"],
)
def test_run_without_a_skip_passes(source: str, tmp_path: Path) -> None:
    assert run(tmp_path, source).returncode == 0
