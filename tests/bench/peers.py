"""Others who do our job, where their programs are on the PATH: oauth2-proxy, Ory Oathkeeper.

No goal depends on them. Both are asked as a gateway asks them, and find a session as they do at
home: oauth2-proxy in Redis, Oathkeeper by introspection of a bearer token.
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

from tests.bench import questions
from tests.bench.errors import NotMeasurable, WrongAnswers
from tests.bench.stage import Stage
from tests.bench.target import Target
from tests.bench.webserver import start_nginx
from tests.support.processes import (
    Child,
    Server,
    free_port,
    give_away,
    listens,
    start_on_a_free_port,
)

# Each of them logs in and has a session and a cookie of its own.
_USERS: Final = 50
_COOKIE: Final = "_oauth2_proxy"


def oauth2_proxy(stage: Stage) -> Target:
    """Sessions in Redis; users from a password file, so that no identity provider is needed."""
    server = _start_oauth2_proxy(stage)
    cookies = [_log_in(server.port, f"user-{number}") for number in range(_USERS)]
    asked = [
        questions.carrying(known, f"{_COOKIE}={cookie}", path="/oauth2/auth")
        for known, cookie in zip(stage.usual.known, cookies, strict=False)
    ]
    file = stage.file(asked)
    return Target(
        server.port,
        requests=lambda: file,
        under_test=(server,),
        probe=asked[0],
        says="X-Auth-Request-User: user-0\r\n",
        status=202,
    )


def oathkeeper(stage: Stage) -> Target:
    """The decision API, with one rule for everything; an nginx on another core introspects."""
    introspection = start_nginx(stage, "introspection.conf", under_test=False)
    server = _start_oathkeeper(stage, introspection.url)
    asked = [questions.bearing(known, path="/decisions/shop") for known in stage.usual.known]
    file = stage.file(asked)
    return Target(
        server.port,
        requests=lambda: file,
        under_test=(server,),
        probe=asked[0],
        says="X-Auth-User: somebody\r\n",
    )


def _start_oauth2_proxy(stage: Stage) -> Server:
    program, directory = _program("oauth2-proxy"), stage.directory()
    password = base64.b64encode(hashlib.sha1(b"password").digest()).decode()
    users = "".join(f"user-{number}:{{SHA}}{password}\n" for number in range(_USERS))
    (directory / "users").write_text(users)

    def arguments(port: int) -> Sequence[str]:
        return [
            f"--http-address=127.0.0.1:{port}",
            "--reverse-proxy=true",
            "--trusted-proxy-ip=127.0.0.1",
            "--session-store-type=redis",
            f"--redis-connection-url={stage.redis.url}",
            f"--cookie-secret={secrets.token_hex(16)}",
            "--cookie-secure=false",
            f"--cookie-name={_COOKIE}",
            f"--htpasswd-file={directory / 'users'}",
            "--email-domain=*",
            "--upstream=static://202",
            "--set-xauthrequest=true",
            "--request-logging=false",
            "--auth-logging=false",
            "--provider=github",  # asked for at the start, and by nobody here after that
            "--client-id=benchmark",
            "--client-secret=benchmark",
        ]

    return _start(stage, "oauth2-proxy", program, directory, arguments)


def _log_in(port: int, user: str) -> str:
    """Return the cookie of a new session."""
    form = urllib.parse.urlencode({"username": user, "password": "password", "rd": "/"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/oauth2/sign_in", form, headers)
        answer = connection.getresponse()
        cookies = SimpleCookie(answer.headers.get("Set-Cookie", ""))
        if _COOKIE not in cookies:
            raise WrongAnswers(f"oauth2-proxy answered a log-in with {answer.status}, no cookie")
        return str(cookies[_COOKIE].value)


def _start_oathkeeper(stage: Stage, introspection: str) -> Server:
    program, directory = _program("oathkeeper"), stage.directory()
    (directory / "rules.json").write_text(json.dumps([_rule()]))

    def arguments(port: int) -> Sequence[str]:
        file = directory / "oathkeeper.json"
        file.write_text(json.dumps(_configuration(port, directory / "rules.json", introspection)))
        give_away(directory)
        return ["serve", "--config", str(file)]

    return _start(stage, "oathkeeper", program, directory, arguments)


def _rule() -> dict[str, object]:
    return {
        "id": "everything",
        "match": {"url": "<.*>", "methods": ["GET"]},
        "authenticators": [{"handler": "oauth2_introspection"}],
        "authorizer": {"handler": "allow"},
        "mutators": [{"handler": "header"}],
    }


def _configuration(port: int, rules: Path, introspection: str) -> dict[str, object]:
    """Not cached, as by default: a revoked token is refused at once."""
    return {
        "log": {"level": "error"},
        "serve": {
            "api": {"host": "127.0.0.1", "port": port},
            "proxy": {"host": "127.0.0.1", "port": free_port()},
            "prometheus": {"host": "127.0.0.1", "port": free_port()},
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


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotMeasurable(f"{name} is not on the PATH")
    return found


def _start(
    stage: Stage,
    name: str,
    program: str,
    directory: Path,
    arguments: Callable[[int], Sequence[str]],
) -> Server:
    give_away(directory)

    def launch(port: int) -> Server:
        # where the program lies is its owner's choice, and may be closed to others
        child = Child(
            name, [program, *arguments(port)], directory, lambda: listens(port), demoted=False
        )
        return Server(name, port, f"http://127.0.0.1:{port}", child)

    with stage.cores.serving():
        return stage.kept(start_on_a_free_port(launch, None))
