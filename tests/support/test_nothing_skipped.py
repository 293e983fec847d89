"""The CI's plugin: a green run in which something was skipped is red."""

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
        "pytest.importorskip('a_library_nobody_has')",
    ],
)
def test_a_skip_fails_the_run_and_is_named(source: str, tmp_path: Path) -> None:
    told = run(tmp_path, source)

    assert told.returncode != 0
    assert "nothing may be skipped here" in told.stdout
    assert "test_it.py" in told.stdout.partition("nothing may be skipped here")[2]


@pytest.mark.parametrize(
    "source",
    ["def test_x(): ...", "@pytest.mark.xfail\ndef test_x(): assert 0"],
)
def test_a_run_without_a_skip_stays_green(source: str, tmp_path: Path) -> None:
    assert run(tmp_path, source).returncode == 0
