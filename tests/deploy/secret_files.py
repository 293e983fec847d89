"""The secrets a deployment mounts, made by the very script that makes them for Compose."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from tests.deploy.files import DEPLOY

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def make_secrets() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location(
        "make_secrets", DEPLOY / "compose/make_secrets.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def secret_files(folder: Path) -> dict[str, Path]:
    """Write a fresh set into `folder`; return each file by its name."""
    texts: dict[str, str] = make_secrets().texts()
    for name, text in texts.items():
        (folder / name).write_text(text + "\n")
    return {name: folder / name for name in texts}
