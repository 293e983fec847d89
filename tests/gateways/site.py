"""Sites of their own, below sites/, into which the parts of `sidegate gateway` are pasted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from sidegate.gateway_config.products import PRODUCTS
from sidegate.gateway_config.render import render_part
from tests.gateways.launch import build_test_deployment, start_with_files

if TYPE_CHECKING:
    from sidegate.gateway_config.deployment import Deployment
    from tests.support.processes import Server

SITES = Path(__file__).with_name("sites")
_PART = re.compile(r"^([ \t]*)<part (\S+)>\n", re.MULTILINE)


def start_site(name: str, directory: Path, *, gate: str, upstream: str, **settings: str) -> Server:
    """Start the site of a gateway with the parts for Sidegate at `gate`.

    In its files, port 8080 of 127.0.0.1 or of a name is the site and `127.0.0.1:9000` the
    application (`upstream`, a URL). A line `<part NAME>` is replaced by that part. Skip the test if
    the gateway is missing.
    """

    files = {
        str(file.relative_to(SITES / name)): file.read_text("utf-8")
        for file in (SITES / name).rglob("*")
        if file.is_file()
    }
    return start_pasted(name, directory, texts=files, gate=gate, upstream=upstream, **settings)


def start_pasted(
    name: str,
    directory: Path,
    *,
    texts: Mapping[str, str],
    gate: str,
    upstream: str,
    **settings: str,
) -> Server:
    """Start a gateway with these files; parts and ports in them are as in `start_site`."""

    def render(port: int) -> Mapping[str, str]:
        deployment = build_test_deployment(port, [gate], upstream=upstream, settings=settings)
        return {file: _paste(text, name, deployment=deployment) for file, text in texts.items()}

    return start_with_files(name, directory, render=render)


def _paste(text: str, name: str, *, deployment: Deployment) -> str:
    """Return a file of the site with addresses and parts."""
    addressed = re.sub(
        r"(127\.0\.0\.1|\.test)(\D+)(8080|9000)\b",
        _replace_port(deployment),
        text,
        flags=re.ASCII,
    )

    def render(match: re.Match[str]) -> str:
        part = PRODUCTS[name].find_part(match[2])
        assert part is not None, f"{name} has no part {match[2]}"
        return indent(render_part(part, deployment), match[1])

    return _PART.sub(render, addressed)


def _replace_port(deployment: Deployment) -> Callable[[re.Match[str]], str]:
    ports = {"8080": deployment.listen.port, "9000": deployment.upstream.port}
    return lambda match: f"{match[1]}{match[2]}{ports[match[3]]}"
