"""constraints.txt: what pyproject.toml asks for is pinned, with hashes, and no index is named."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "constraints.txt").read_text()
PARTS = ["runtime", "build", "demo", "test", "bench"]


def list_requirements() -> list[tuple[str, str]]:
    """Return the part of the lock each requirement belongs above, and the requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        "runtime": project["project"]["dependencies"],
        "build": project["build-system"]["requires"],
        **project["dependency-groups"],
    }
    return [(part, text) for part in PARTS for text in groups[part] if isinstance(text, str)]


def pins(part: str) -> dict[str, str]:
    """Return what is pinned for a part: its own lines and all above them."""
    above = LOCK[: LOCK.index(f"# == {part}\n")] + LOCK.split(f"# == {part}\n")[1].split("# == ")[0]
    return dict(re.findall(r"^([\w.-]+)==(\S+)", above, re.MULTILINE))


@pytest.mark.parametrize(("part", "text"), list_requirements())
def test_requirement_has_a_satisfying_pin(part: str, text: str) -> None:
    requirement = Requirement(text)

    pin = pins(part).get(canonicalize_name(requirement.name), "nothing; run ./dev lock")

    assert pin in requirement.specifier if requirement.specifier else pin[0].isdigit()


def test_every_pin_has_hashes() -> None:
    stanzas = re.split(r"\n(?=[\w.-]+==)", LOCK)[1:]

    assert len(stanzas) > 50
    assert [stanza for stanza in stanzas if "--hash=sha256:" not in stanza] == []


def test_lock_file_contains_no_index_url() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
