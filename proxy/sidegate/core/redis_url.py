"""URLs of Redis: the forms, the parameters that each allows, and what they mean.

    redis://[user:password@]host:6379[/db]        rediss:// with TLS
    unix://[user:password@]/path[?db=0]
    redis+sentinel://[user:password@]host1:26379,host2:26379/service[/db]
    redis+cluster://[user:password@]host1:6379,host2:6379
                                                  rediss+sentinel://, rediss+cluster:// with TLS

User and password are those of the data servers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sidegate.core.client_tls import ClientTls, TlsFile, Verify
from sidegate.core.store_url import (
    ESCAPE_HINT,
    Host,
    Table,
    UrlError,
    UrlParts,
    read_choice,
    read_integer,
    read_parameters,
    read_text,
    split_url,
)

_HINT: Final = (
    "write redis://host:6379/0, rediss://host:6379/0 (TLS), "
    "redis+sentinel://h1:26379,h2:26379/mymaster/0, redis+cluster://h1:6379,h2:6379 or "
    f"unix:///path {ESCAPE_HINT}"
)
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_read_db: Final = read_integer(0, 999_999)

_CREDENTIALS: Final[Table] = {"username": read_text, "password": read_text}
_DB: Final[Table] = {"db": _read_db}
_SENTINEL: Final[Table] = {"sentinel_username": read_text, "sentinel_password": read_text}
_TLS: Final[Table] = {
    "ssl_ca_certs": read_text,
    # the names of redis-py and those of Celery
    "ssl_cert_reqs": read_choice("required", "none", "CERT_REQUIRED", "CERT_NONE"),
    "ssl_certfile": read_text,
    "ssl_check_hostname": read_choice("true", "false"),
    "ssl_keyfile": read_text,
}

SCHEMES: Final[Mapping[str, Table]] = {
    "redis": {**_CREDENTIALS, **_DB},
    "rediss": {**_CREDENTIALS, **_DB, **_TLS},
    "unix": {**_CREDENTIALS, **_DB},
    "redis+sentinel": {**_CREDENTIALS, **_DB, **_SENTINEL},
    "rediss+sentinel": {**_CREDENTIALS, **_DB, **_SENTINEL, **_TLS},
    "redis+cluster": _CREDENTIALS,
    "rediss+cluster": {**_CREDENTIALS, **_TLS},
}
"""The parameters that each scheme allows; all but those of Sentinels are redis-py's."""

TLS_PARAMETERS: Final[Mapping[TlsFile, str]] = {
    "ca_file": "ssl_ca_certs",
    "cert_file": "ssl_certfile",
    "key_file": "ssl_keyfile",
}
"""The parameter that sets each file."""

# Parameters of other clients that are met in URLs, and what to do instead.
_HINTS: Final = {
    "health_check_interval": "leave it out",
    "max_connections": "leave it out",
    "protocol": "leave it out: the protocol is RESP2",
    "retry_on_timeout": "leave it out",
    "skip_verify": "write ssl_cert_reqs=none",
    "socket_connect_timeout": "set redis.deadline",
    "socket_timeout": "set redis.deadline",
    "ssl": "write rediss://",
    "timeout": "set redis.deadline",
}


class RedisForm(StrEnum):
    """How the server that holds a key is found."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where Redis is, and how to connect to it.

    `hosts` are the Sentinels, nodes of the Cluster, or the only server. `service` is the name that
    Sentinels know the primary by.
    """

    form: RedisForm
    hosts: tuple[Host, ...]
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    service: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: ClientTls | None = None


def parse_redis_url(text: str) -> RedisUrl:
    """Return what a URL says. Raise UrlError with all problems."""
    parts = split_url(text, schemes=SCHEMES, hint=_HINT)
    values, problems = read_parameters(parts, SCHEMES[parts.scheme], hints=_HINTS)
    if any("ssl_" in problem and "no such parameter" in problem for problem in problems):
        problems.append(_advise_tls(parts.scheme))
    form = RedisForm(parts.scheme.partition("+")[2] or RedisForm.SERVER)
    if form is RedisForm.SERVER and len(parts.hosts) > 1:
        problems.append(
            "names several hosts: write redis+sentinel:// for Sentinels, redis+cluster:// for a "
            "Cluster"
        )
    service, db, path_problems = _read_path(parts, form)
    if db is not None and "db" in values:
        problems.append("db: is given twice")
    problems += [*path_problems, *_list_duplicates(parts, values), *_list_tls_problems(values)]
    if problems:
        raise UrlError(problems)
    return RedisUrl(
        form=form,
        hosts=_build_hosts(parts, form),
        db=db or values.get("db") or 0,
        username=values.get("username") or parts.user,
        password=values.get("password") or parts.password,
        service=service,
        sentinel_username=values.get("sentinel_username"),
        sentinel_password=values.get("sentinel_password"),
        tls=_build_tls(values) if parts.scheme.startswith("rediss") else None,
    )


def _build_hosts(parts: UrlParts, form: RedisForm) -> tuple[Host, ...]:
    if parts.scheme == "unix":
        return (Host(parts.path, 0),)
    port = _SENTINEL_PORT if form is RedisForm.SENTINEL else _PORT
    return tuple(Host(name, own or port) for name, own in parts.hosts)


def _read_path(parts: UrlParts, form: RedisForm) -> tuple[str, int | None, list[str]]:
    """Return the service and the database that the path names, and what is wrong with it."""
    if parts.scheme == "unix":
        return "", None, []
    service, path = "", parts.path.strip("/")
    if form is RedisForm.SENTINEL:
        service, _, path = path.partition("/")
    if not path:
        return service, None, []
    try:
        number = _read_db(path)
    except ValueError:
        return service, None, ["the path must be the number of a database"]
    if form is RedisForm.CLUSTER and number != 0:
        return service, None, ["the path must be /0 or absent: a Cluster has one database"]
    return service, number, []


def _list_duplicates(parts: UrlParts, values: Mapping[str, Any]) -> Iterator[str]:
    for name, other in (("username", parts.user), ("password", parts.password)):
        if name in values and other:
            yield f"{name}: is given twice"


def _list_tls_problems(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("ssl_keyfile") and not values.get("ssl_certfile"):
        yield "ssl_keyfile: needs ssl_certfile"
    if _verifies_nothing(values):
        if values.get("ssl_ca_certs"):
            yield "ssl_ca_certs: nothing is verified with ssl_cert_reqs=none"
        if values.get("ssl_check_hostname") == "true":
            yield "ssl_check_hostname: nothing is verified with ssl_cert_reqs=none"


def _verifies_nothing(values: Mapping[str, Any]) -> bool:
    return values.get("ssl_cert_reqs") in ("none", "CERT_NONE")


def _build_tls(values: Mapping[str, Any]) -> ClientTls:
    if _verifies_nothing(values):
        verify = Verify.NONE
    elif values.get("ssl_check_hostname") == "false":
        verify = Verify.CA
    else:
        verify = Verify.FULL
    files = {str(file): values[name] for file, name in TLS_PARAMETERS.items() if values.get(name)}
    return ClientTls(verify=verify, **files)


def _advise_tls(scheme: str) -> str:
    return f"TLS needs {scheme.replace('redis', 'rediss', 1)}://"
