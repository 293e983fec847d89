"""What a postgresql:// URL says, and what it may not say."""

import os
import pwd

import pytest

from sidegate.core.client_tls import ClientTls, Verify
from sidegate.core.postgres_url import PARAMETERS, PostgresUrl, parse_postgres_url
from sidegate.core.store_url import Host, UrlError

SECRET = "hunter2hunter2"


def parse(rest: str) -> PostgresUrl:
    return parse_postgres_url(f"postgresql://{rest}")


def read_problems(rest: str) -> tuple[str, ...]:
    with pytest.raises(UrlError) as caught:
        parse(rest)
    return caught.value.problems


def tls_of(rest: str) -> list[ClientTls | None]:
    url = parse(rest)
    return [url.get_tls(host) for host in url.hosts]


# --- hosts, user, database


@pytest.mark.parametrize(
    ("rest", "hosts"),
    [
        ("u@db/x", [("db", 5432)]),
        ("u@db:6000/x", [("db", 6000)]),
        ("u@[::1]:6000/x", [("::1", 6000)]),
        ("u@a,b:6000,c/x", [("a", 5432), ("b", 6000), ("c", 5432)]),
        ("u@a,b/x?port=6000", [("a", 6000), ("b", 6000)]),
        ("u@a,b/x?port=6000,6001", [("a", 6000), ("b", 6001)]),
        ("u@/x?host=a,b&port=6000,6001", [("a", 6000), ("b", 6001)]),
        ("u@/x?host=a:6000", [("a", 6000)]),
        ("u@/x?host=/run/postgresql", [("/run/postgresql", 5432)]),
        ("u@/x?host=/run/a,/run/b", [("/run/a", 5432), ("/run/b", 5432)]),
        ("u@%2Frun%2Fpostgresql:6000/x", [("/run/postgresql", 6000)]),
        ("u@/x", [("/run/postgresql", 5432), ("localhost", 5432)]),
    ],
)
def test_hosts(rest: str, hosts: list[tuple[str, int]]) -> None:
    assert parse(rest).hosts == tuple(Host(*host) for host in hosts)


@pytest.mark.parametrize(
    "rest",
    ["u@a:0/x", "u@a:70000/x", "u@:5432/x", "u@a,,b/x", "u@a:5432:1/x", "u@a/x?port=1#y"],
)
def test_url_of_another_form_says_how_to_write_it(rest: str) -> None:
    [problem] = read_problems(rest)
    assert problem.startswith("write postgresql://user:password@host:5432/database (escape @")


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("u@a/x?host=b", "host: is given twice"),
        ("u@a:5432/x?port=5433", "port: is given twice"),
        ("u@a/x?port=5432,5433", "port: must be one port, or one for each host"),
        ("u@/x?host=a&port=http", "port: must be a port, or one for each host, with commas"),
        ("u@a/x?port=0", "port: must be a port, or one for each host, with commas"),
        ("u@/x?host=a,", "host: must be a host, or the directory of a Unix socket; several"),
    ],
)
def test_hosts_that_contradict_each_other_are_refused(rest: str, problem: str) -> None:
    assert read_problems(rest)[0].startswith(problem)


def test_user_password_and_database_are_decoded() -> None:
    url = parse("a%40b:p%2F%3F%23%25@db/x%20y")
    assert (url.user, url.password, url.database) == ("a@b", "p/?#%", "x y")


def test_parameters_take_precedence_as_for_libpq() -> None:
    url = parse("u:p@db/x?user=ada&password=q&dbname=y")
    assert (url.user, url.password, url.database) == ("ada", "q", "y")


def test_database_is_that_of_the_user_by_default() -> None:
    assert parse("ada@db").database == "ada"


def test_user_is_that_of_the_process_by_default() -> None:
    assert parse("db/x").user == pwd.getpwuid(os.geteuid()).pw_name


def test_process_without_a_user_name_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 7)
    assert read_problems("db/x") == ("names no user: write postgresql://USER@host/database",)


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "USER", "LOGNAME"):
        monkeypatch.setenv(name, "disable")
    url = parse("db/x")
    assert "disable" not in (url.hosts[0].name, url.user, url.password, url.database)
    assert url.get_tls(url.hosts[0]) == ClientTls()


@pytest.mark.parametrize("rest", ["a%00b@db/x", "a:p%0Aq@db/x", "a@db/x?user=%00", "a:%ff@db/x"])
def test_control_characters_are_refused(rest: str) -> None:
    assert "must have no control characters" in str(read_problems(rest)) or (
        read_problems(rest)[0].startswith("write postgresql://")
    )


def test_password_is_not_in_the_repr() -> None:
    assert SECRET not in repr(parse(f"u:{SECRET}@db/x"))


# --- parameters


def test_managed_service_with_channel_binding_is_accepted() -> None:
    rest = f"u:{SECRET}@ep-1.eu.example/neondb?sslmode=require&channel_binding=require"
    assert tls_of(rest) == [ClientTls(verify=Verify.FULL)]


def test_parameters_are_read() -> None:
    url = parse(
        "u@db/x?connect_timeout=10&application_name=gate&target_session_attrs=read-write"
        "&options=-c%20search_path=auth%20--statement_timeout=5s"
    )
    assert url == PostgresUrl(
        hosts=(Host("db", 5432),),
        user="u",
        database="x",
        target="read-write",
        connect_timeout=10,
        application_name="gate",
        options="-c search_path=auth --statement_timeout=5s",
    )


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("connect_timeout=0", "connect_timeout: must be a number from 1 to 60"),
        ("connect_timeout=", "connect_timeout: must be a number from 1 to 60"),
        ("connect_timeout=2.5", "connect_timeout: must be a number from 1 to 60"),
        ("application_name=", "application_name: must be up to 63 ASCII characters"),
        ("target_session_attrs=standby", "target_session_attrs: must be primary or read-write"),
        ("target_session_attrs=any", "target_session_attrs: must be primary or read-write"),
        ("sslmode=prefer", "sslmode: must be one of disable, no-verify, require, verify-ca"),
        ("sslmode=allow", "sslmode: must be one of disable, no-verify, require, verify-ca"),
        ("sslmode=", "sslmode: must be one of disable, no-verify, require, verify-ca"),
        ("channel_binding=yes", "channel_binding: must be one of disable, prefer, require"),
        ("options=--", "options: must be -c%20NAME=VALUE"),
        ("options=-c+search_path=a", "options: must be -c%20NAME=VALUE"),
        ("sslmode=disable&sslmode=require", "sslmode: is given twice"),
        ("sslkey=/k", "sslkey: needs sslcert"),
        ("sslmode=verify-ca", "sslmode: verify-ca needs sslrootcert"),
        ("sslmode=disable&sslrootcert=/ca", "sslrootcert: needs TLS, which sslmode=disable"),
        ("sslmode=no-verify&sslrootcert=system", "sslrootcert: nothing is verified with"),
        ("sslmode=disable&channel_binding=require", "channel_binding: require needs"),
        ("sslmode=no-verify&channel_binding=require", "channel_binding: require needs"),
        ("passfile=/p", "passfile: no password file is read: write the URL with its password"),
        ("service=x", "service: no service file is read"),
        ("pgbouncer=true", "pgbouncer: set postgres.listen_url"),
        ("ssl=true", "ssl: write sslmode=verify-full or sslmode=disable"),
        ("sslmod=require", "sslmod: no such parameter; did you mean sslmode?"),
        ("SSLMODE=require", "SSLMODE: no such parameter; did you mean sslmode?"),
        ("foo=bar", "foo: no such parameter"),
        ("foo", "foo: no such parameter"),
    ],
)
def test_what_cannot_be_used_is_named(query: str, problem: str) -> None:
    assert read_problems(f"u@db/x?{query}")[0].startswith(problem)


def test_unknown_parameters_are_named_together_with_those_allowed() -> None:
    *unknown, allowed = read_problems("u@db/x?krbsrvname=a&gssencmode=disable&keepalives=1")
    assert unknown == [
        "krbsrvname: no such parameter",
        "gssencmode: no such parameter",
        "keepalives: no such parameter",
    ]
    assert allowed == f"postgresql:// allows {', '.join(sorted(PARAMETERS))}"


def test_all_problems_are_told_at_once() -> None:
    problems = read_problems("u@db/x?sslmode=x&connect_timeout=x&foo=1&sslkey=/k")
    names = {problem.partition(":")[0] for problem in problems}
    assert names >= {"sslmode", "connect_timeout", "foo", "sslkey"}


@pytest.mark.parametrize(
    "rest",
    [
        f"u:p?{SECRET}@db/x",
        f"u:12?{SECRET}=@db/x",
        f"u:p@db/x?sslmode={SECRET}",
        f"u:p@db/x?{SECRET * 4}=1",
        f"u:p@db/x?pass%77ord={SECRET}",
        f"u:{SECRET}@db/x?foo=1",
        f"u:{SECRET}@db:x/x",
        f"u:p#{SECRET}@db/x",
    ],
)
def test_no_problem_contains_a_value(rest: str) -> None:
    assert SECRET not in str(read_problems(rest))


# --- TLS


FULL, NONE = ClientTls(), ClientTls(verify=Verify.NONE)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        # beyond this machine
        ("u@db/x", FULL),
        ("u@db/x?sslmode=require", FULL),
        ("u@db/x?sslmode=verify-full", FULL),
        ("u@db/x?sslrootcert=system", FULL),
        ("u@db/x?sslrootcert=/ca", ClientTls(ca_file="/ca")),
        ("u@db/x?sslmode=verify-ca&sslrootcert=/ca", ClientTls(Verify.CA, "/ca")),
        ("u@db/x?sslcert=/c&sslkey=/k", ClientTls(cert_file="/c", key_file="/k")),
        ("u@db/x?sslmode=no-verify", NONE),
        ("u@db/x?sslmode=disable", None),
        ("u@10.0.0.5/x", FULL),
        ("u@127.1/x", FULL),
        ("u@localhost.example/x", FULL),
        # on this machine
        ("u@localhost/x", None),
        ("u@127.0.0.1/x", None),
        ("u@127.8.9.1/x", None),
        ("u@[::1]/x", None),
        ("u@[::ffff:127.0.0.1]/x", None),
        ("u@localhost/x?sslmode=require", NONE),
        ("u@localhost/x?sslmode=require&sslrootcert=system", FULL),
        ("u@localhost/x?sslmode=require&sslrootcert=/ca", ClientTls(ca_file="/ca")),
        ("u@localhost/x?sslmode=verify-full", FULL),
        ("u@localhost/x?sslrootcert=system", FULL),
        ("u@localhost/x?sslrootcert=/ca", ClientTls(ca_file="/ca")),
        ("u@/x?host=/run/postgresql", None),
        ("u@/x?host=/run/postgresql&sslmode=verify-full", None),
    ],
)
def test_tls(rest: str, expected: ClientTls | None) -> None:
    assert tls_of(rest) == [expected]


def test_each_host_has_the_tls_of_where_it_is() -> None:
    assert tls_of("u@localhost,db/x") == [None, FULL]


@pytest.mark.parametrize("rest", ["u@localhost/x", "u@/x?host=/run/postgresql", "u@a,localhost/x"])
def test_channel_binding_needs_verified_tls_to_every_host(rest: str) -> None:
    separator = "&" if "?" in rest else "?"
    [problem] = read_problems(f"{rest}{separator}channel_binding=require")
    assert problem == "channel_binding: require needs sslmode=verify-full, which replaces it"
