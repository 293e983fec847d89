"""The same as nginx with Lua, written with aiohttp: `python -m ... PORT REDIS_PORT`.

It runs on uvloop, as Sidegate does, so that the comparison excludes the event loop.
"""

import sys

import uvloop
from aiohttp import web
from redis.asyncio import Redis

REDIS = web.AppKey("REDIS", Redis)


async def check(request: web.Request) -> web.Response:
    """Look up the user of the token in the cookie, and return it in a header."""
    token = request.cookies.get("__Host-session", "")
    user = await request.app[REDIS].get(f"session:{token}")
    if user is None:
        return web.Response(status=401)
    return web.Response(headers={"X-Auth-User": str(user)})


def main(port: int, redis_port: int) -> None:
    application = web.Application()
    application[REDIS] = Redis(port=redis_port, decode_responses=True)
    application.router.add_get("/auth-request", check)
    loop = uvloop.new_event_loop()
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, loop=loop)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
