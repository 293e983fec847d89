"""Reference servers: nginx; nginx with Lua, aiohttp, Go and Rust, each with one GET from Redis.

All receive the same requests, with one worker on the same core; Redis runs on another core.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import redis

from tests.bench.compilers import build_go, build_rust
from tests.bench.environment import Environment
from tests.bench.sessions import KnownSession
from tests.bench.sidegate_targets import ROUTE
from tests.bench.target import Target
from tests.bench.webserver import PAGE, load_lua, start_nginx, write_page
from tests.support.processes import Child, Server, is_listening, module_command, start_on_free_port
from tests.support.sidegate import ROOT

_USER_HEADER: Final = "X-Auth-User: "


def start_plain_nginx(environment: Environment) -> Target:
    """Start nginx with `return 200`."""
    return _build_target(
        environment, start_nginx(environment, "return.conf"), expected_text="HTTP/1.1 200"
    )


def start_nginx_with_lua(environment: Environment) -> Target:
    """Start nginx with a Lua handler that looks the token up with one Redis GET."""
    return _build_lookup_target(environment, run_nginx_with_lua(environment))


def start_plain_aiohttp(environment: Environment) -> Target:
    """Start an aiohttp handler that looks the token up with one Redis GET."""
    command = module_command("tests.bench.plain_aiohttp")
    return _build_lookup_target(environment, _start_handler(environment, "aiohttp", command))


def start_go(environment: Environment) -> Target:
    """Start the same handler in Go. Raise NotMeasurable if it cannot be built."""
    command = [build_go("go-reference")]
    return _build_lookup_target(environment, _start_handler(environment, "go", command))


def start_rust(environment: Environment) -> Target:
    """Start the same handler in Rust. Raise NotMeasurable if it cannot be built."""
    command = [build_rust("rust-reference")]
    return _build_lookup_target(environment, _start_handler(environment, "rust", command))


def start_nginx_with_file(environment: Environment) -> Target:
    """Start nginx with a static file, without authorization."""
    nginx = start_nginx(environment, "file.conf", prepare=write_page)
    return _build_target(environment, nginx, expected_text="Content-Length: 1024", path=PAGE)


def run_nginx_with_lua(environment: Environment) -> Server:
    """Start nginx with the Lua handler, without any tokens in Redis."""
    replacements = {'"127.0.0.1", 6379': f'"127.0.0.1", {environment.redis.port}'}
    return start_nginx(environment, "redis.conf", replacements, prepare=load_lua)


def store_tokens(environment: Environment, sessions: Sequence[KnownSession]) -> None:
    """Store the users in Redis under their tokens, as is usually done."""
    with redis.Redis(port=environment.redis.port) as client:
        client.mset({f"session:{each.token.text}": each.user_id for each in sessions})


def _build_lookup_target(environment: Environment, server: Server) -> Target:
    sessions = environment.default_database.sessions
    store_tokens(environment, sessions)
    return _build_target(environment, server, expected_text=_USER_HEADER + sessions[0].user_id)


def _build_target(
    environment: Environment, server: Server, *, expected_text: str, path: str = ROUTE
) -> Target:
    requests = environment.prepare_requests(environment.default_database, path=path)
    return Target(
        server.port,
        requests=lambda: requests.file,
        under_test=(server,),
        probe=requests.first,
        expected_text=expected_text,
    )


def _start_handler(environment: Environment, name: str, command: Sequence[str | Path]) -> Server:
    """Start a handler, whose arguments are its port and that of Redis."""
    directory, redis_port = environment.make_directory(), str(environment.redis.port)

    def launch(port: int) -> Server:
        child = Child(
            name,
            [*command, str(port), redis_port],
            directory,
            lambda: is_listening(port),
            environment={"PYTHONPATH": str(ROOT)},
            unprivileged=False,
        )
        return Server(name, port, f"http://127.0.0.1:{port}", child)

    with environment.cores.pinned_to_server_core():
        return environment.stop_on_exit(start_on_free_port(launch, None))
