"""Alternatives to Sidegate, if they are on the PATH: oauth2-proxy, Ory Oathkeeper.

Both receive the subrequests of a gateway, and find sessions as usually
deployed: oauth2-proxy in Redis, Oathkeeper by introspection of a bearer token.
"""

import base64
import hashlib
import http.client
import json
import secrets
import shutil
import urllib.parse
from collections.abc import Callable, Sequence
from contextlib import closing
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Final

from tests.bench import http_requests
from tests.bench.environment import Environment
from tests.bench.errors import NotMeasurable, UnexpectedResponses
from tests.bench.target import Target
from tests.bench.webserver import start_nginx
from tests.support.processes import (
    Child,
    Server,
    chown_to_child_user,
    find_free_port,
    is_listening,
    start_on_free_port,
)

# Each user logs in and has its own session and cookie.
_USERS: Final = 50
_COOKIE: Final = "_oauth2_proxy"


def start_oauth2_proxy(environment: Environment) -> Target:
    """Start it with sessions in Redis and a password file instead of an identity provider."""
    server = _start_oauth2_proxy(environment)
    cookies = [_log_in(server.port, f"user-{number}") for number in range(_USERS)]
    requests = [
        http_requests.build_cookie_request(session, f"{_COOKIE}={cookie}", path="/oauth2/auth")
        for session, cookie in zip(environment.default_database.sessions, cookies, strict=False)
    ]
    file = environment.write_requests(requests)
    return Target(
        server.port,
        requests=lambda: file,
        under_test=(server,),
        probe=requests[0],
        expected_text="X-Auth-Request-User: user-0\r\n",
        status=202,
    )


def start_oathkeeper(environment: Environment) -> Target:
    """Start its decision API with one rule; an nginx on another core serves the introspection."""
    introspection = start_nginx(environment, "introspection.conf", under_test=False)
    server = _start_oathkeeper(environment, introspection.url)
    requests = [
        http_requests.build_bearer_request(session, path="/decisions/shop")
        for session in environment.default_database.sessions
    ]
    file = environment.write_requests(requests)
    return Target(
        server.port,
        requests=lambda: file,
        under_test=(server,),
        probe=requests[0],
        expected_text="X-Auth-User: user\r\n",
    )


def _start_oauth2_proxy(environment: Environment) -> Server:
    program, directory = _find_program("oauth2-proxy"), environment.make_directory()
    password = base64.b64encode(hashlib.sha1(b"password").digest()).decode()
    users = "".join(f"user-{number}:{{SHA}}{password}\n" for number in range(_USERS))
    (directory / "users").write_text(users)

    def arguments(port: int) -> Sequence[str]:
        return [
            f"--http-address=127.0.0.1:{port}",
            "--reverse-proxy=true",
            "--trusted-proxy-ip=127.0.0.1",
            "--session-store-type=redis",
            f"--redis-connection-url={environment.redis.url}",
            f"--cookie-secret={secrets.token_hex(16)}",
            "--cookie-secure=false",
            f"--cookie-name={_COOKIE}",
            f"--htpasswd-file={directory / 'users'}",
            "--email-domain=*",
            "--upstream=static://202",
            "--set-xauthrequest=true",
            "--request-logging=false",
            "--auth-logging=false",
            "--provider=github",  # required at the start, but not used
            "--client-id=benchmark",
            "--client-secret=benchmark",
        ]

    return _start(environment, "oauth2-proxy", program, directory, arguments)


def _log_in(port: int, user: str) -> str:
    """Return the cookie of a new session."""
    form = urllib.parse.urlencode({"username": user, "password": "password", "rd": "/"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/oauth2/sign_in", form, headers)
        response = connection.getresponse()
        cookies = SimpleCookie(response.headers.get("Set-Cookie", ""))
        if _COOKIE not in cookies:
            raise UnexpectedResponses(
                f"oauth2-proxy answered a login with {response.status}, no cookie"
            )
        return str(cookies[_COOKIE].value)


def _start_oathkeeper(environment: Environment, introspection: str) -> Server:
    program, directory = _find_program("oathkeeper"), environment.make_directory()
    (directory / "rules.json").write_text(json.dumps([_build_rule()]))

    def arguments(port: int) -> Sequence[str]:
        file = directory / "oathkeeper.json"
        file.write_text(json.dumps(_build_config(port, directory / "rules.json", introspection)))
        chown_to_child_user(directory)
        return ["serve", "--config", str(file)]

    return _start(environment, "oathkeeper", program, directory, arguments)


def _build_rule() -> dict[str, object]:
    return {
        "id": "everything",
        "match": {"url": "<.*>", "methods": ["GET"]},
        "authenticators": [{"handler": "oauth2_introspection"}],
        "authorizer": {"handler": "allow"},
        "mutators": [{"handler": "header"}],
    }


def _build_config(port: int, rules: Path, introspection: str) -> dict[str, object]:
    """Return the configuration. Introspection is not cached, as by default."""
    return {
        "log": {"level": "error"},
        "serve": {
            "api": {"host": "127.0.0.1", "port": port},
            "proxy": {"host": "127.0.0.1", "port": find_free_port()},
            "prometheus": {"host": "127.0.0.1", "port": find_free_port()},
        },
        "access_rules": {"repositories": [rules.as_uri()], "matching_strategy": "regexp"},
        "authenticators": {
            "oauth2_introspection": {
                "enabled": True,
                "config": {"introspection_url": f"{introspection}/introspect"},
            }
        },
        "authorizers": {"allow": {"enabled": True}},
        "mutators": {
            "header": {
                "enabled": True,
                "config": {"headers": {"X-Auth-User": "{{ print .Subject }}"}},
            }
        },
    }


def _find_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotMeasurable(f"{name} is not on the PATH")
    return found


def _start(
    environment: Environment,
    name: str,
    program: str,
    directory: Path,
    arguments: Callable[[int], Sequence[str]],
) -> Server:
    chown_to_child_user(directory)

    def launch(port: int) -> Server:
        # The program may be in a directory that other users cannot read.
        child = Child(
            name,
            [program, *arguments(port)],
            directory,
            lambda: is_listening(port),
            unprivileged=False,
        )
        return Server(name, port, f"http://127.0.0.1:{port}", child)

    with environment.cores.pinned_to_server_core():
        return environment.stop_on_exit(start_on_free_port(launch, None))
