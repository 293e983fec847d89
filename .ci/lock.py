"""Write constraints.txt anew: every package we use, pinned, with the hash of each of its files.

Run it with `./dev lock`. uv resolves for all platforms and Pythons at once, which pip cannot.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"

HEAD = """\
# Every package Sidegate runs, builds, shows and tests itself with, pinned, with its files' hashes.
# Made by `./dev lock`; do not edit.
#
# The parts lie on each other: an install takes all lines down to the part it does not need, as in
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
    test = [*demo, *(r for r in project["dependency-groups"]["test"] if isinstance(r, str))]
    with tempfile.TemporaryDirectory() as folder:
        whole = _resolved(test, None, Path(folder))
        pins = Path(folder) / "pins.txt"
        pins.write_text("".join(f"{pin.split()[0]}\n" for pin in whole.values()))
        text, written = HEAD, set[str]()
        for name, wanted in (("runtime", runtime), ("build", build), ("demo", demo)):
            part = _resolved(wanted, pins, Path(folder))
            text += _part(name, {n: whole[n] for n in part if n not in written})
            written |= set(part)
        text += _part("test", {n: pin for n, pin in whole.items() if n not in written})
    LOCK.write_text(text, "utf-8")


def _part(name: str, pins: dict[str, str]) -> str:
    return f"\n# == {name}\n\n" + "".join(pins.values())


def _resolved(wanted: list[str], pins: Path | None, folder: Path) -> dict[str, str]:
    """Return the stanza of each package `wanted` needs, by its name."""
    requirements = folder / "requirements.in"
    requirements.write_text("\n".join(wanted), "utf-8")
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", str(requirements)]
    uv += ["--universal", "--python-version=3.11", "--generate-hashes"]
    uv += ["--no-annotate", "--no-header", "--no-progress"]
    uv += ["--constraint", str(pins)] if pins else []
    # uv brings its own certificates; whoever gave pip others means them for uv too.
    certificates = {"SSL_CERT_FILE": os.environ["PIP_CERT"]} if "PIP_CERT" in os.environ else {}
    text = subprocess.run(  # noqa: S603 - our own words
        uv, env=os.environ | certificates, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    stanzas = re.findall(r"^[\w.-]+==.*\n(?: .*\n)*", text, re.MULTILINE)
    return {stanza.partition("==")[0]: stanza for stanza in stanzas}


if __name__ == "__main__":
    main()
