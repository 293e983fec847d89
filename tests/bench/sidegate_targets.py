"""Sidegate as a target: hits in memory, in Redis, in Postgres; create; refresh."""

from typing import Final

from tests.bench import http_requests
from tests.bench.environment import Database, Environment
from tests.bench.target import MetricsHitCounter, Target
from tests.bench.webserver import PAGE, start_nginx, write_page
from tests.support.sidegate import Sidegate

ROUTE: Final = "/auth-request"

_NO_MEMORY: Final = {
    "SIDEGATE_MEMORY__MAX_SESSIONS": "1"
}  # with 500 sessions in turn there are no hits
_USERS: Final = 1000
# Sessions that each run refreshes repeatedly. The next run needs others, since the tokens in the
# file have been rotated out.
_REFRESHED_SESSIONS: Final = 250
_RUNS: Final = 40


def start_local(environment: Environment) -> Target:
    return _build_target(
        environment,
        environment.default_database,
        environment.get_instance("local", environment.default_database),
        found_in="memory",
    )


def start_redis_only(environment: Environment) -> Target:
    sidegate = environment.get_instance("redis", environment.default_database, settings=_NO_MEMORY)
    return _build_target(environment, environment.default_database, sidegate, found_in="redis")


def start_postgres_only(environment: Environment) -> Target:
    sidegate = environment.get_instance(
        "postgres", environment.default_database, redis=False, settings=_NO_MEMORY
    )
    return _build_target(environment, environment.default_database, sidegate, found_in="postgres")


def start_local_million(environment: Environment) -> Target:
    sidegate = environment.get_instance("local_of_a_million", environment.million_database)
    return _build_target(environment, environment.million_database, sidegate, found_in="memory")


def start_postgres_million(environment: Environment) -> Target:
    sidegate = environment.get_instance(
        "postgres_of_a_million", environment.million_database, redis=False, settings=_NO_MEMORY
    )
    return _build_target(environment, environment.million_database, sidegate, found_in="postgres")


def start_behind_nginx(environment: Environment) -> Target:
    """Start nginx with a file behind auth_request. Both servers share the core, as in a pod."""
    sidegate = environment.get_instance("local", environment.default_database)
    replacements = {"127.0.0.1:7080": sidegate.address}
    nginx = start_nginx(environment, "auth_request.conf", replacements, prepare=write_page)
    requests = environment.prepare_requests(environment.default_database, path=PAGE)
    return Target(
        nginx.port,
        requests=lambda: requests.file,
        under_test=(nginx, sidegate.server),
        probe=requests.first,
        expected_text=f"X-User: {requests.user_id}\r\n",
        hit_counter=MetricsHitCounter("memory", sidegate.ops_port),
    )


def start_create(environment: Environment) -> Target:
    sidegate = environment.get_instance("created", environment.get_database("created", sessions=0))
    requests = [
        http_requests.build_create_request(number, environment.admin_key)
        for number in range(_USERS)
    ]
    file = environment.write_requests(requests)
    return Target(
        sidegate.admin_port,
        requests=lambda: file,
        under_test=(sidegate.server,),
        probe=requests[0],
        expected_text="Location: /v1/sessions/",
        status=201,
    )


def start_refresh(environment: Environment) -> Target:
    database = environment.get_database("refreshed", sessions=_REFRESHED_SESSIONS * _RUNS + 1)
    sidegate = environment.get_instance("refreshed", database)
    head = http_requests.build_admin_head("/v1/refresh", environment.admin_key)
    first, *others = (session.token.text for session in database.sessions)
    runs = (
        others[start : start + _REFRESHED_SESSIONS]
        for start in range(0, len(others), _REFRESHED_SESSIONS)
    )
    return Target(
        sidegate.admin_port,
        requests=lambda: environment.write_requests([head, *next(runs)]),
        under_test=(sidegate.server,),
        probe=http_requests.build_refresh_request(first, environment.admin_key),
        expected_text="Content-Type: application/json",
        script="refresh.lua",
    )


def _build_target(
    environment: Environment, database: Database, sidegate: Sidegate, *, found_in: str
) -> Target:
    requests = environment.prepare_requests(database, path=ROUTE)
    return Target(
        sidegate.server.port,
        requests=lambda: requests.file,
        under_test=(sidegate.server,),
        probe=requests.first,
        expected_text=f"X-Auth-User: {requests.user_id}\r\n",
        hit_counter=MetricsHitCounter(found_in, sidegate.ops_port),
    )
