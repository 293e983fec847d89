"""The generated pages of docs/reference/ are those that the code gives."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "docs/reference"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, ROOT / ".ci/reference.py", folder], check=True)
    return folder


@pytest.mark.parametrize("page", ["api.md", "configuration.md", "metrics.md"])
def test_reference_page_is_up_to_date(generated: Path, page: str) -> None:
    expected = (generated / page).read_text("utf-8")
    is_up_to_date = (COMMITTED / page).read_text("utf-8") == expected

    assert is_up_to_date, f"docs/reference/{page} is stale: run ./dev reference"


def test_every_generated_page_is_committed(generated: Path) -> None:
    pages = {page.name for page in generated.iterdir()}

    assert pages <= {page.name for page in COMMITTED.iterdir()}
