"""deploy/: the whole configuration of each gateway; docs/gateways/: the parts that a page shows."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import Final

from click.testing import CliRunner

from sidegate.cli.main import main

# A page shows the output of a command in a block of code between these comments.
_SHOWN: Final = re.compile(
    r"<!-- (sidegate gateway [^>]+) -->\n```(\w+)\n.*?```\n<!-- /sidegate -->\n", re.DOTALL
)
# Those that are tested, and have files to start from.
_GATEWAYS: Final = ("nginx", "traefik", "envoy", "caddy", "haproxy")


# The configurations of Caddy beside other manifests, and their commands.
_COMPOSE: Final = "sidegate gateway caddy --listen :8080"
_SIDECAR: Final = "sidegate gateway caddy --listen :8080 --gate unix:/run/sidegate/gate.sock"
_CONFIG_MAP: Final = re.compile(r"(?<=\n  Caddyfile: \|\n).*?(?=^---\n)", re.DOTALL | re.MULTILINE)


def build_files(committed: Path) -> Iterator[tuple[str, str]]:
    """Yield the path below deploy/ and the text of each file; `committed` is deploy/ as it is."""
    for name in _GATEWAYS:
        with TemporaryDirectory() as directory:
            _run(f"sidegate gateway {name} --directory {shlex.quote(directory)}")
            for file in sorted(Path(directory).iterdir()):
                yield f"{name}/{file.name}", file.read_text("utf-8")
    yield "compose/Caddyfile", _run(_COMPOSE)
    sidecar = (committed / "kubernetes/sidecar.yaml").read_text("utf-8")
    caddyfile = indent(_run(_SIDECAR), " " * 4)
    yield "kubernetes/sidecar.yaml", _CONFIG_MAP.sub(lambda _: caddyfile, sidecar)


def build_pages(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page in `folder`, with the output of its commands."""
    for page in sorted(folder.glob("*.md")):
        yield page.name, _SHOWN.sub(_show, page.read_text("utf-8"))


def _show(match: re.Match[str]) -> str:
    command, language = match.groups()
    return f"<!-- {command} -->\n```{language}\n{_run(command)}```\n<!-- /sidegate -->\n"


def _run(command: str) -> str:
    """Return the output of a command with the default settings."""
    own = {name: None for name in os.environ if name.startswith("SIDEGATE_")}
    result = CliRunner(env=own).invoke(main, shlex.split(command)[1:], catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(f"{command}: {result.output}")
    return result.output
