"""Write constraints.txt: every package in use, pinned, with the hash of each of its files.

`./dev lock` takes the newest versions that pyproject.toml allows; `./dev lock --keep` changes only
what pyproject.toml no longer allows, or lacks. uv resolves for all platforms and Python versions at
once, which pip cannot.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"

# The first line of a stanza, without its continuation: name, version, and where it applies.
_PIN = r"^[\w.-]+==.*?(?= *\\?$)"

HEAD = """\
# Every package Sidegate needs to run, build, demonstrate, test and benchmark, pinned, with the
# hashes of its files.
# Made by `./dev lock`; do not edit.
#
# The parts build on each other: an installation takes all lines down to the first part it does not
# need, as in
#     sed '/^# == build/,$d' constraints.txt > runtime.txt
#     pip install --require-hashes -r runtime.txt
#     pip install --no-deps .
# (As `pip install -c` it does not work: pip takes hashes from requirements only.)
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    runtime = project["project"]["dependencies"]
    # An editable install without build isolation finds its tools in the environment itself.
    build = [*runtime, *project["build-system"]["requires"], "editables"]
    demo = [*build, *project["dependency-groups"]["demo"]]
    test = [*demo, *_own(project, "test")]
    bench = [*test, *_own(project, "bench")]
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        if "--keep" in sys.argv[1:]:
            _write_pins(pins, LOCK.read_text("utf-8"))
            whole = _resolved(bench, pins, Path(folder))
        else:
            whole = _resolved(bench, None, Path(folder))
        _write_pins(pins, "".join(whole.values()))
        text, written = HEAD, set[str]()
        parts = {"runtime": runtime, "build": build, "demo": demo, "test": test}
        for name, wanted in parts.items():
            part = _resolved(wanted, pins, Path(folder))
            text += _part(name, {n: whole[n] for n in part if n not in written})
            written |= set(part)
        text += _part("bench", {n: pin for n, pin in whole.items() if n not in written})
    LOCK.write_text(text, "utf-8")


def _write_pins(pins: Path, stanzas: str) -> None:
    pins.write_text("\n".join(re.findall(_PIN, stanzas, re.MULTILINE)), "utf-8")


def _own(project: dict[str, Any], group: str) -> list[str]:
    """Return what a group adds to those it includes."""
    return [each for each in project["dependency-groups"][group] if isinstance(each, str)]


def _part(name: str, pins: dict[str, str]) -> str:
    return f"\n# == {name}\n\n" + "".join(pins.values())


def _resolved(wanted: list[str], pins: Path | None, folder: Path) -> dict[str, str]:
    """Return the stanzas of each package `wanted` needs, by its name.

    Usually it is one; a package may need another version for older Pythons.
    """
    requirements = folder / "requirements.in"
    requirements.write_text("\n".join(wanted), "utf-8")
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", str(requirements)]
    uv += ["--universal", "--python-version=3.11", "--generate-hashes"]
    uv += ["--no-annotate", "--no-header", "--no-progress"]
    uv += ["--constraint", str(pins)] if pins else []
    # uv brings its own certificates; those that pip was given are meant for uv too.
    certificates = {"SSL_CERT_FILE": os.environ["PIP_CERT"]} if "PIP_CERT" in os.environ else {}
    text = subprocess.run(  # noqa: S603 - our own words
        uv, env=os.environ | certificates, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    stanzas: dict[str, str] = {}
    for stanza in re.findall(r"^[\w.-]+==.*\n(?: .*\n)*", text, re.MULTILINE):
        name = stanza.partition("==")[0]
        stanzas[name] = stanzas.get(name, "") + stanza
    return stanzas


if __name__ == "__main__":
    main()
