"""Reference servers: nginx, nginx with Lua and Redis, and a handler on aiohttp.

All receive the same requests, with one worker on the same core; Redis runs on another core.
"""

from typing import Final

import redis

from tests.bench.environment import Environment
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
    _store_tokens(environment)
    replacements = {'"127.0.0.1", 6379': f'"127.0.0.1", {environment.redis.port}'}
    nginx = start_nginx(environment, "redis.conf", replacements, prepare=load_lua)
    return _build_target(
        environment,
        nginx,
        expected_text=_USER_HEADER + environment.default_database.sessions[0].user_id,
    )


def start_plain_aiohttp(environment: Environment) -> Target:
    """Start an aiohttp handler that looks the token up with one Redis GET."""
    _store_tokens(environment)
    server = _start_handler(environment)
    return _build_target(
        environment,
        server,
        expected_text=_USER_HEADER + environment.default_database.sessions[0].user_id,
    )


def start_nginx_with_file(environment: Environment) -> Target:
    """Start nginx with a static file, without authorization."""
    nginx = start_nginx(environment, "file.conf", prepare=write_page)
    return _build_target(environment, nginx, expected_text="Content-Length: 1024", path=PAGE)


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


def _store_tokens(environment: Environment) -> None:
    """Store the users in Redis under their tokens, as is usually done."""
    with redis.Redis(port=environment.redis.port) as client:
        client.mset(
            {
                f"session:{each.token.text}": each.user_id
                for each in environment.default_database.sessions
            }
        )


def _start_handler(environment: Environment) -> Server:
    directory, redis_port = environment.make_directory(), str(environment.redis.port)

    def launch(port: int) -> Server:
        argv = module_command("tests.bench.plain_aiohttp", str(port), redis_port)
        child = Child(
            "aiohttp",
            argv,
            directory,
            lambda: is_listening(port),
            environment={"PYTHONPATH": str(ROOT)},
            unprivileged=False,
        )
        return Server("aiohttp", port, f"http://127.0.0.1:{port}", child)

    with environment.cores.pinned_to_server_core():
        return environment.stop_on_exit(start_on_free_port(launch, None))
