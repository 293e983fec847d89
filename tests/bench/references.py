"""What we are compared with: nginx, nginx with Lua and Redis, and a handler on aiohttp.

All are sent the same requests, with one worker on the same core; Redis is on another one.
"""

from typing import Final

import redis

from tests.bench.roads import ROUTE
from tests.bench.stage import Stage
from tests.bench.target import Target
from tests.bench.webserver import PAGE, start_nginx, with_files, with_lua
from tests.support.processes import Child, Server, listens, python_module, start_on_a_free_port
from tests.support.sidegate import ROOT

_WHOSE: Final = "X-Auth-User: "


def nginx_alone(stage: Stage) -> Target:
    """nginx says 200 to everything."""
    return _asking(stage, start_nginx(stage, "return.conf"), says="HTTP/1.1 200")


def nginx_with_lua(stage: Stage) -> Target:
    """nginx asks Redis, with one GET, whose the token is."""
    _remember_tokens(stage)
    places = {'"127.0.0.1", 6379': f'"127.0.0.1", {stage.redis.port}'}
    nginx = start_nginx(stage, "redis.conf", places, prepare=with_lua)
    return _asking(stage, nginx, says=_WHOSE + stage.usual.known[0].user_id)


def plain_aiohttp(stage: Stage) -> Target:
    """A handler asks Redis, with one GET, whose the token is."""
    _remember_tokens(stage)
    server = _start_handler(stage)
    return _asking(stage, server, says=_WHOSE + stage.usual.known[0].user_id)


def nginx_with_a_file(stage: Stage) -> Target:
    """nginx serves a file to everybody."""
    nginx = start_nginx(stage, "file.conf", prepare=with_files)
    return _asking(stage, nginx, says="Content-Length: 1024", path=PAGE)


def _asking(stage: Stage, server: Server, *, says: str, path: str = ROUTE) -> Target:
    asked = stage.asked(stage.usual, path=path)
    return Target(
        server.port,
        requests=lambda: asked.file,
        under_test=(server,),
        probe=asked.first,
        says=says,
    )


def _remember_tokens(stage: Stage) -> None:
    """Tell Redis whose the tokens are, under the tokens themselves: it is what is usually done."""
    with redis.Redis(port=stage.redis.port) as client:
        client.mset({f"session:{each.token.text}": each.user_id for each in stage.usual.known})


def _start_handler(stage: Stage) -> Server:
    directory, redis_port = stage.directory(), str(stage.redis.port)

    def launch(port: int) -> Server:
        argv = python_module("tests.bench.plain_aiohttp", str(port), redis_port)
        child = Child(
            "aiohttp",
            argv,
            directory,
            lambda: listens(port),
            environment={"PYTHONPATH": str(ROOT)},
            demoted=False,
        )
        return Server("aiohttp", port, f"http://127.0.0.1:{port}", child)

    with stage.cores.serving():
        return stage.kept(start_on_a_free_port(launch, None))
