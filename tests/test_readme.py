"""The blocks of README.md and docs/quickstart.md work as they are printed."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidegate.settings import load
from tests.gateways.launch import GATEWAYS
from tests.support.processes import find_free_port
from tests.support.shell_blocks import read_blocks, run_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
QUICKSTART = ROOT / "docs" / "quickstart.md"


def listeners(port: int) -> dict[str, str]:
    """Return the settings of an instance whose three listeners are on `port` and the next two."""
    sections = ("GATE", "ADMIN", "OPS")
    return {"SIDEGATE_DRAIN__DELAY": "0s"} | {
        f"SIDEGATE_{section}__LISTEN": f"127.0.0.1:{port + offset}"
        for offset, section in enumerate(sections)
    }


def addresses(port: int) -> dict[str, str]:
    """Return the addresses of the admin and ops listeners, by their default addresses."""
    return {f"127.0.0.1:{7080 + offset}": f"127.0.0.1:{port + offset}" for offset in (1, 2)}


def documents(lines: Iterable[str]) -> list[Any]:
    """Return the JSON objects that lines begin with, without those of the log.

    A server that runs beside the command may continue its line.
    """
    found = [json.JSONDecoder().raw_decode(line)[0] for line in lines if re.match(r"{.*}", line)]
    return [document for document in found if "timestamp" not in document]


def copy_deploy(directory: Path, replaced: Mapping[str, str]) -> None:
    """Copy the files that the blocks use, with other addresses."""
    for file in ("nginx/nginx.conf", "demo/application.py"):
        target = directory / "deploy" / file
        target.parent.mkdir(parents=True)
        text = (ROOT / "deploy" / file).read_text()
        for printed, actual in replaced.items():
            text = text.replace(printed, actual)
        target.write_text(text)


def run_protected_route(page: Path, heading: str, workdir: Path) -> list[str]:
    """Run the blocks of a section that protects a route with nginx."""
    gate = find_free_port(1, 2, 3, 4)
    gateway, application = gate + 3, gate + 4
    copy_deploy(
        workdir,
        {
            "127.0.0.1:7080": f"127.0.0.1:{gate}",
            "127.0.0.1:8080": f"127.0.0.1:{gateway}",
            "127.0.0.1:9000": f"127.0.0.1:{application}",
        },
    )
    blocks = [block for block in read_blocks(page, heading) if "pip install" not in block]
    return run_blocks(
        blocks,
        workdir,
        replaced=addresses(gate)
        | {
            "127.0.0.1:8080": f"127.0.0.1:{gateway}",
            "127.0.0.1:9000": f"127.0.0.1:{application}",
            "deploy/demo/application.py": f"deploy/demo/application.py {application}",
            "/tmp/": f"{workdir}/",
        },
        programs=[GATEWAYS["nginx"].program().parent],
        environment=listeners(gate),
    )


def test_readme_protects_a_route(workdir: Path) -> None:
    lines = run_protected_route(README, "Protect a route", workdir)

    assert [line for line in lines if line in ("200", "401")] == ["401", "401"]
    assert sum('"X-Auth-User": "alice"' in line for line in lines) == 2
    assert documents(lines) == [{"revoked": 1, "more": False}]


def test_quickstart_protects_a_route(workdir: Path) -> None:
    lines = run_protected_route(QUICKSTART, "From nothing to a protected route", workdir)

    assert [line for line in lines if line in ("200", "401")] == ["401", "401"]
    assert sum('"X-Auth-User": "alice"' in line for line in lines) == 2


def test_readme_installs_more_than_one_machine(
    database_url: str, redis_url: str, workdir: Path
) -> None:
    port = find_free_port(1, 2)

    lines = run_blocks(
        read_blocks(README, "More than one machine"),
        workdir,
        replaced=addresses(port)
        | {
            "postgresql://sidegate@db.example/sidegate": database_url,
            "redis://cache.example:6379": redis_url,
        },
        environment=listeners(port),
    )

    created, revoked = documents(lines)
    assert created["session"]["user_id"] == "alice"
    assert revoked == {"revoked": 1, "more": False}
    for name in ("token-keys", "admin-keys"):
        assert stat.S_IMODE((workdir / "secrets" / name).stat().st_mode) == 0o600


def test_addresses_in_the_readme_are_valid_settings(tmp_path: Path) -> None:
    (_, exports, _) = read_blocks(README, "More than one machine")
    words = exports.replace("secrets/", f"{tmp_path}/").split()
    environment = dict(word.split("=", 1) for word in words if word.startswith("SIDEGATE_"))
    (tmp_path / "token-keys").write_text("1:" + "A" * 43)
    (tmp_path / "admin-keys").write_text("[]")

    settings = load(None, environment)

    assert settings.redis_url is not None
