"""postgresql:// URLs, as libpq writes them: the parameters that are allowed, and what they mean.

    postgresql://user:password@host1:5432,host2:5432/database?sslmode=verify-full
    postgresql:///database?host=/run/postgresql

No environment variable (PGHOST, PGSSLMODE) and no file in the home directory (.pgpass,
.postgresql) changes what a URL means.
"""

import os
import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
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
    read_hosts,
    read_integer,
    read_parameters,
    read_ports,
    read_text,
    split_url,
)

_HINT: Final = f"write postgresql://user:password@host:5432/database {ESCAPE_HINT}"
_DEFAULT_PORT: Final = 5432
# Where libpq looks without a host; not in /tmp, where any user of the machine may listen.
_DEFAULT_HOSTS: Final = (("/run/postgresql", None), ("localhost", None))
# The value of sslrootcert for the CAs of the system, which is the default.
_SYSTEM_CA: Final = "system"


class SslMode(StrEnum):
    """How a connection by TCP is encrypted. NO_VERIFY is not libpq's, but node-postgres'."""

    DISABLE = "disable"
    NO_VERIFY = "no-verify"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


_SSL_MODE_HINT: Final = (
    f"must be one of {', '.join(SslMode)}; the modes allow and prefer fall back to plain text"
)
_TARGET_HINT: Final = "must be primary or read-write: Sidegate writes, and reads what it wrote"
# -c name=value, -cname=value and --name=value; some services route by name=value.
_OPTION: Final = re.compile(r"(?:-c *|--)?[A-Za-z][A-Za-z0-9_.-]*=(?:\\.|[^\\ ])*", re.ASCII)
_OPTIONS_HINT: Final = "must be -c%20NAME=VALUE, separated by %20"


def _read_options(text: str) -> str:
    if not text.isascii() or re.fullmatch(rf" *(?:{_OPTION.pattern} *)+", text) is None:
        raise ValueError(_OPTIONS_HINT)
    return text


def _read_application_name(text: str) -> str:
    if not 0 < len(text) <= 63 or not text.isascii():
        raise ValueError("must be up to 63 ASCII characters")
    return text


PARAMETERS: Final[Table] = {
    "application_name": _read_application_name,
    "channel_binding": read_choice("disable", "prefer", "require"),
    "connect_timeout": read_integer(1, 60),
    "dbname": read_text,
    "host": read_hosts,
    "options": _read_options,
    "password": read_text,
    "port": read_ports,
    "sslcert": read_text,
    "sslkey": read_text,
    "sslmode": read_choice(*SslMode, hint=_SSL_MODE_HINT),
    "sslrootcert": read_text,
    "target_session_attrs": read_choice("primary", "read-write", hint=_TARGET_HINT),
    "user": read_text,
}
"""The parameters that are allowed; all are libpq's."""

SCHEMES: Final[Mapping[str, Table]] = {"postgresql": PARAMETERS, "postgres": PARAMETERS}

TLS_PARAMETERS: Final[Mapping[TlsFile, str]] = {
    "ca_file": "sslrootcert",
    "cert_file": "sslcert",
    "key_file": "sslkey",
}
"""The parameter that sets each file."""

# Parameters of libpq and of other drivers that are met in URLs, and what to do instead.
_HINTS: Final = {
    "connection_limit": "set postgres.pool_max",
    "fallback_application_name": "write application_name",
    "passfile": "no password file is read: write the URL with its password to a file, and set "
    "SIDEGATE_DATABASE_URL_FILE",
    "pgbouncer": "set postgres.listen_url, and for PgBouncer older than 1.21 "
    "postgres.prepared_statements: false",
    "schema": "write options=-c%20search_path=SCHEMA",
    "search_path": "write options=-c%20search_path=SCHEMA",
    "service": "no service file is read: write its parameters into the URL",
    "ssl": "write sslmode=verify-full or sslmode=disable",
    "sslpassword": "store the key without a passphrase",
    "statement_cache_size": "set postgres.prepared_statements: false",
    "statement_timeout": "write options=-c%20statement_timeout=MILLISECONDS",
    "uselibpqcompat": "leave it out",
}


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A database and how to connect to it. At least one of `hosts` is its primary.

    `sslmode` None: verify-full beyond this machine, and on it plain text, unless a file for TLS is
    set. `target` is primary or read-write.
    """

    hosts: tuple[Host, ...]
    user: str
    database: str
    password: str | None = field(default=None, repr=False)
    sslmode: SslMode | None = None
    files: Mapping[TlsFile, str] = field(default_factory=dict)
    target: str = "primary"
    connect_timeout: int | None = None
    application_name: str = "sidegate"
    options: str | None = None

    def get_tls(self, host: Host) -> ClientTls | None:
        """Return how connections to a host are encrypted; None: they are not."""
        mode = self.sslmode
        if mode is None:
            is_plain = host.is_local and not self.files
            mode = SslMode.DISABLE if is_plain else SslMode.VERIFY_FULL
        if host.is_socket or mode is SslMode.DISABLE:
            return None
        files = {str(file): path for file, path in self.files.items()}
        return ClientTls(verify=self._get_verify(mode, host), **files)

    def _get_verify(self, mode: SslMode, host: Host) -> Verify:
        match mode:
            case SslMode.NO_VERIFY:
                return Verify.NONE
            case SslMode.VERIFY_CA:
                return Verify.CA
            case SslMode.REQUIRE if host.is_local and "ca_file" not in self.files:
                return Verify.NONE  # as for libpq: the server is this machine, or a tunnel's end
            case _:
                return Verify.FULL


def parse_postgres_url(text: str) -> PostgresUrl:
    """Return what a URL says. Raise UrlError with all problems."""
    parts = split_url(text, schemes=SCHEMES, hint=_HINT)
    values, problems = read_parameters(parts, PARAMETERS, hints=_HINTS)
    problems += _list_duplicates(parts, values)
    hosts, host_problems = _read_hosts(parts, values)
    user = values.get("user") or parts.user or _get_os_user()
    if user is None:
        problems.append("names no user: write postgresql://USER@host/database")
    files = {
        file: values[name]
        for file, name in TLS_PARAMETERS.items()
        if values.get(name) and values[name] != _SYSTEM_CA
    }
    url = PostgresUrl(
        hosts=hosts,
        user=user or "",
        password=values.get("password") or parts.password,
        database=values.get("dbname") or parts.path.removeprefix("/") or user or "",
        sslmode=_read_ssl_mode(values),
        files=files,
        target=values.get("target_session_attrs") or "primary",
        connect_timeout=values.get("connect_timeout"),
        application_name=values.get("application_name") or "sidegate",
        options=values.get("options"),
    )
    problems += [*host_problems, *_list_tls_problems(url, values)]
    if problems:
        raise UrlError(problems)
    return url


def _list_duplicates(parts: UrlParts, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters that contradict the hosts of the URL.

    As for libpq, user, password and dbname take precedence over those before them.
    """
    if "host" in values and parts.hosts:
        yield "host: is given twice"
    if "port" in values and any(port is not None for _, port in parts.hosts):
        yield "port: is given twice"


def _read_hosts(parts: UrlParts, values: Mapping[str, Any]) -> tuple[tuple[Host, ...], list[str]]:
    named = parts.hosts or values.get("host") or _DEFAULT_HOSTS
    ports: Sequence[int] = values.get("port") or (_DEFAULT_PORT,)
    if len(ports) not in (1, len(named)):
        return (), ["port: must be one port, or one for each host"]
    if len(ports) == 1:
        ports = [*ports] * len(named)
    return tuple(
        Host(name, own or other) for (name, own), other in zip(named, ports, strict=True)
    ), []


def _read_ssl_mode(values: Mapping[str, Any]) -> SslMode | None:
    mode = None if values.get("sslmode") is None else SslMode(values["sslmode"])
    if mode in (None, SslMode.REQUIRE) and values.get("sslrootcert") == _SYSTEM_CA:
        return SslMode.VERIFY_FULL
    return mode


def _list_tls_problems(url: PostgresUrl, values: Mapping[str, Any]) -> Iterator[str]:
    mode = url.sslmode
    if values.get("sslkey") and not values.get("sslcert"):
        yield "sslkey: needs sslcert"
    if mode is SslMode.DISABLE:
        for name in TLS_PARAMETERS.values():
            if values.get(name):
                yield f"{name}: needs TLS, which sslmode=disable switches off"
    if mode is SslMode.NO_VERIFY and values.get("sslrootcert"):
        yield "sslrootcert: nothing is verified with sslmode=no-verify"
    if mode is SslMode.VERIFY_CA and "ca_file" not in url.files:
        yield "sslmode: verify-ca needs sslrootcert: any host may have a certificate of a public CA"
    if values.get("channel_binding") == "require" and not _is_verified(url):
        yield "channel_binding: require needs sslmode=verify-full, which replaces it"


def _is_verified(url: PostgresUrl) -> bool:
    tls = [url.get_tls(host) for host in url.hosts]
    return all(each is not None and each.verify is Verify.FULL for each in tls)


def _get_os_user() -> str | None:
    """Return the name of this process's user, as libpq does; None if it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None
