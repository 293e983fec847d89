"""The blocks of README.md and docs/quickstart.md work as they are printed."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidegate.settings import load
from tests.gateways.launch import GATEWAYS, run_upstream
from tests.support.processes import find_free_port
from tests.support.shell_blocks import read_blocks, run_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.processes import Server

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


# What nginx needs to run in a directory of its own, and what a site has besides what a page shows.
PREAMBLE = """pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
"""
REST_OF_SERVER = """
        listen 127.0.0.1:GATEWAY;
        error_page 404 /404.html;
        error_page 500 502 503 504 /50x.html;
        location / { return 200 "open"; }
        location = /404.html { internal; return 200 "not here"; }
    }
}
"""


def read_site(page: Path, heading: str) -> str:
    """Return the configuration of the site that a section shows, ready to run."""
    section = page.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    shown = section.partition("```nginx\n")[2].partition("```")[0]
    body, end, _ = shown.rpartition("\n    }\n}\n")
    assert end
    return PREAMBLE + body.removeprefix("http {\n") + REST_OF_SERVER


def remove_includes(configuration: str) -> str:
    return re.sub(r"\n *include .*", "", configuration)


@pytest.fixture
def upstream() -> Iterator[Server]:
    with run_upstream() as server:
        yield server


def test_readme_protects_a_route_of_an_existing_site(workdir: Path, upstream: Server) -> None:
    """nginx runs the site; the blocks print the parts; their includes are added; it reloads."""
    gate, gateway = find_free_port(1, 2), find_free_port()
    site = read_site(README, "Protect a route")
    site = site.replace("GATEWAY", str(gateway)).replace("http://your-application", upstream.url)
    (workdir / "nginx.conf").write_text(remove_includes(site))
    (workdir / "edited.conf").write_text(site)
    nginx = f"nginx -p {workdir} -c {workdir}/nginx.conf -e {workdir}/error.log"
    *blocks, reload, requests = read_blocks(README, "Protect a route")[1:]
    before = (
        f"{nginx}\ncurl -s -o /dev/null -w 'before %{{http_code}}\\n' http://127.0.0.1/account/"
    )
    # For a moment after a reload, workers of the old configuration accept connections, too.
    reloaded = (
        "protected=0; for _ in $(seq 2000); do"
        " if [ $(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/account/) = 401 ];"
        " then protected=$((protected + 1)); else protected=0; fi;"
        " if [ $protected = 40 ]; then break; fi; done"
    )
    after = f"curl -s -w ' %{{http_code}}\\n' http://127.0.0.1/\n{nginx} -s quit"

    lines = run_blocks(
        [before, *blocks, "cp edited.conf nginx.conf", reload, reloaded, requests, after],
        workdir,
        replaced=addresses(gate)
        | {
            "/etc/nginx/": f"{workdir}/",
            "http://127.0.0.1/": f"http://127.0.0.1:{gateway}/",
            "nginx -t && nginx -s reload": f"{nginx} -t && {nginx} -s reload",
            "/tmp/sidegate.log": f"{workdir}/sidegate.log",
        },
        programs=[GATEWAYS["nginx"].program().parent],
        environment=listeners(gate),
    )

    assert lines[0] == "before 200"
    assert [line for line in lines if line in ("200", "401")] == ["401", "401"]
    received = [line for line in lines if '"headers"' in line]
    assert len(received) == 2
    assert all('["X-Auth-User", "alice"]' in line for line in received)
    assert not any("sgw_" in line for line in received)
    assert "open 200" in lines
    assert [each for each in documents(lines) if "revoked" in each] == [
        {"revoked": 1, "more": False}
    ]


def test_quickstart_protects_a_route(workdir: Path) -> None:
    gate, application = find_free_port(1, 2, 3), find_free_port()
    target = workdir / "deploy/demo/application.py"
    target.parent.mkdir(parents=True)
    shutil.copy(ROOT / "deploy/demo/application.py", target)
    heading = "From nothing to a protected route"
    blocks = [block for block in read_blocks(QUICKSTART, heading) if "pip install" not in block]

    lines = run_blocks(
        blocks,
        workdir,
        replaced=addresses(gate)
        | {
            "sidegate gateway nginx": f"sidegate gateway nginx --listen 127.0.0.1:{gate + 3}"
            f" --upstream http://127.0.0.1:{application}",
            "127.0.0.1:8080": f"127.0.0.1:{gate + 3}",
            "127.0.0.1:9000": f"127.0.0.1:{application}",
            "deploy/demo/application.py": f"deploy/demo/application.py {application}",
            "/tmp/": f"{workdir}/",
        },
        programs=[GATEWAYS["nginx"].program().parent],
        environment=listeners(gate),
    )

    assert [line for line in lines if line in ("200", "401")] == ["401", "401"]
    assert sum('"X-Auth-User": "alice"' in line for line in lines) == 2


def test_readme_installs_more_than_one_machine(
    empty_database_url: str, redis_url: str, workdir: Path
) -> None:
    port = find_free_port(1, 2)

    lines = run_blocks(
        read_blocks(README, "More than one machine"),
        workdir,
        replaced=addresses(port)
        | {
            "postgresql://sidegate@db.example/sidegate": empty_database_url,
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
