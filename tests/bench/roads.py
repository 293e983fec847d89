"""Our roads: Sidegate answers from its memory, from Redis, from Postgres; creates; refreshes."""

from typing import Final

from tests.bench import questions
from tests.bench.stage import Database, Stage
from tests.bench.target import HitsIn, Target
from tests.bench.webserver import PAGE, start_nginx, with_files
from tests.support.sidegate import Sidegate

ROUTE: Final = "/auth-request"

_NO_MEMORY: Final = {"SIDEGATE_MEMORY__MAX_SESSIONS": "1"}  # one copy is none, with 500 in turn
_USERS: Final = 1000
# Each run refreshes so many sessions, over and over; the next run gets others, since the tokens in
# the file have been rotated out.
_REFRESHED: Final = 250
_RUNS: Final = 40


def local(stage: Stage) -> Target:
    return _asking(stage, stage.usual, stage.sidegate("local", stage.usual), found_in="memory")


def redis(stage: Stage) -> Target:
    sidegate = stage.sidegate("redis", stage.usual, settings=_NO_MEMORY)
    return _asking(stage, stage.usual, sidegate, found_in="redis")


def postgres(stage: Stage) -> Target:
    sidegate = stage.sidegate("postgres", stage.usual, redis=False, settings=_NO_MEMORY)
    return _asking(stage, stage.usual, sidegate, found_in="postgres")


def local_of_a_million(stage: Stage) -> Target:
    sidegate = stage.sidegate("local_of_a_million", stage.million)
    return _asking(stage, stage.million, sidegate, found_in="memory")


def postgres_of_a_million(stage: Stage) -> Target:
    sidegate = stage.sidegate(
        "postgres_of_a_million", stage.million, redis=False, settings=_NO_MEMORY
    )
    return _asking(stage, stage.million, sidegate, found_in="postgres")


def behind_nginx(stage: Stage) -> Target:
    """nginx serves a file to whom Sidegate lets in. The two share the core, as in a pod."""
    sidegate = stage.sidegate("local", stage.usual)
    places = {"127.0.0.1:7080": sidegate.address}
    nginx = start_nginx(stage, "auth_request.conf", places, prepare=with_files)
    asked = stage.asked(stage.usual, path=PAGE)
    return Target(
        nginx.port,
        requests=lambda: asked.file,
        under_test=(nginx, sidegate.server),
        probe=asked.first,
        says=f"X-User: {asked.user_id}\r\n",
        witness=HitsIn("memory", sidegate.ops_port),
    )


def create(stage: Stage) -> Target:
    sidegate = stage.sidegate("created", stage.database("created", known=0))
    requests = [questions.creation(number, stage.admin_key) for number in range(_USERS)]
    file = stage.file(requests)
    return Target(
        sidegate.admin_port,
        requests=lambda: file,
        under_test=(sidegate.server,),
        probe=requests[0],
        says="Location: /v1/sessions/",
        status=201,
    )


def refresh(stage: Stage) -> Target:
    database = stage.database("refreshed", known=_REFRESHED * _RUNS + 1)
    sidegate = stage.sidegate("refreshed", database)
    head = questions.admin_head("/v1/refresh", stage.admin_key)
    first, *others = (known.token.text for known in database.known)
    runs = (others[start : start + _REFRESHED] for start in range(0, len(others), _REFRESHED))
    return Target(
        sidegate.admin_port,
        requests=lambda: stage.file([head, *next(runs)]),
        under_test=(sidegate.server,),
        probe=questions.refreshment(first, stage.admin_key),
        says="Content-Type: application/json",
        script="refresh.lua",
    )


def _asking(stage: Stage, database: Database, sidegate: Sidegate, *, found_in: str) -> Target:
    asked = stage.asked(database, path=ROUTE)
    return Target(
        sidegate.server.port,
        requests=lambda: asked.file,
        under_test=(sidegate.server,),
        probe=asked.first,
        says=f"X-Auth-User: {asked.user_id}\r\n",
        witness=HitsIn(found_in, sidegate.ops_port),
    )
