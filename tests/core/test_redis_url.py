"""What a URL of Redis says in each form, and what it may not say."""

import pytest

from sidegate.core.client_tls import ClientTls, Verify
from sidegate.core.redis_url import SCHEMES, RedisForm, RedisUrl, parse_redis_url
from sidegate.core.store_url import Host, UrlError

SECRET = "hunter2hunter2"
TLS_SCHEMES = [scheme for scheme in SCHEMES if scheme.startswith("rediss")]


def build(scheme: str, query: str = "") -> str:
    """Return a URL of this scheme."""
    path = "/mymaster" if scheme.endswith("sentinel") else "/"
    host = "" if scheme == "unix" else "cache"
    return f"{scheme}://{host}{'/run/redis.sock' if scheme == 'unix' else path}?{query}"


def read_problems(text: str) -> tuple[str, ...]:
    with pytest.raises(UrlError) as caught:
        parse_redis_url(text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://cache", RedisUrl(RedisForm.SERVER, (Host("cache", 6379),))),
        (
            "redis://:p%40ss@cache:7000/1",
            RedisUrl(RedisForm.SERVER, (Host("cache", 7000),), db=1, password="p@ss"),
        ),
        (
            "rediss://u:p@[::1]:6380/?db=2",
            RedisUrl(
                RedisForm.SERVER,
                (Host("::1", 6380),),
                db=2,
                username="u",
                password="p",
                tls=ClientTls(),
            ),
        ),
        (
            "unix:///run/redis.sock?db=1&password=p",
            RedisUrl(RedisForm.SERVER, (Host("/run/redis.sock", 0),), db=1, password="p"),
        ),
        (
            "unix://u:p@/run/redis.sock",
            RedisUrl(RedisForm.SERVER, (Host("/run/redis.sock", 0),), username="u", password="p"),
        ),
        (
            "redis+sentinel://:p@h1,h2:26380/mymaster/3?sentinel_username=s&sentinel_password=q",
            RedisUrl(
                RedisForm.SENTINEL,
                (Host("h1", 26379), Host("h2", 26380)),
                db=3,
                password="p",
                service="mymaster",
                sentinel_username="s",
                sentinel_password="q",
            ),
        ),
        (
            "redis+cluster://u:p@h1:7000,h2/0",
            RedisUrl(
                RedisForm.CLUSTER,
                (Host("h1", 7000), Host("h2", 6379)),
                username="u",
                password="p",
            ),
        ),
    ],
)
def test_url_is_read(text: str, expected: RedisUrl) -> None:
    assert parse_redis_url(text) == expected


@pytest.mark.parametrize("scheme", TLS_SCHEMES)
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ClientTls()),
        ("ssl_ca_certs=/ca", ClientTls(ca_file="/ca")),
        ("ssl_certfile=/c&ssl_keyfile=/k", ClientTls(cert_file="/c", key_file="/k")),
        ("ssl_certfile=/both", ClientTls(cert_file="/both")),
        ("ssl_cert_reqs=required", ClientTls()),
        ("ssl_cert_reqs=CERT_REQUIRED", ClientTls()),
        ("ssl_check_hostname=false", ClientTls(verify=Verify.CA)),
        ("ssl_cert_reqs=none", ClientTls(verify=Verify.NONE)),
        ("ssl_cert_reqs=CERT_NONE", ClientTls(verify=Verify.NONE)),
    ],
)
def test_tls_is_read_in_every_form(scheme: str, query: str, expected: ClientTls) -> None:
    assert parse_redis_url(build(scheme, query)).tls == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_parameter_of_the_table_is_read(scheme: str) -> None:
    """A parameter that changes nothing in the result is not read."""
    texts = {
        "db": "5",
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": "false",
        "ssl_keyfile": "/x&ssl_certfile=/y",
    }
    plain = parse_redis_url(build(scheme))
    for name in SCHEMES[scheme]:
        assert parse_redis_url(build(scheme, f"{name}={texts.get(name, '/x')}")) != plain, name


@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster"])
def test_tls_parameters_need_a_scheme_with_tls(scheme: str) -> None:
    problems = read_problems(build(scheme, "ssl_ca_certs=/ca"))
    assert problems[0] == "ssl_ca_certs: no such parameter"
    assert problems[-1] == f"TLS needs {scheme.replace('redis', 'rediss')}://"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("protocol=3", "protocol: leave it out: the protocol is RESP2"),
        ("socket_timeout=5", "socket_timeout: set redis.deadline"),
        ("decode_responses=True", "decode_responses: no such parameter"),
        ("foo=bar", "foo: no such parameter"),
        ("username=a&username=b", "username: is given twice"),
        ("password=", "password: must not be empty"),
    ],
)
def test_what_cannot_be_used_is_named_in_every_form(scheme: str, query: str, problem: str) -> None:
    problems = read_problems(build(scheme, query))
    assert problems[0] == problem
    if "no such" in problem:
        assert problems[1] == f"{scheme}:// allows {', '.join(sorted(SCHEMES[scheme]))}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("redis://h1:6379,h2:6379", "names several hosts: write redis+sentinel:// for"),
        ("redis://cache/abc", "the path must be the number of a database"),
        ("redis://cache/%C2%B2", "the path must be the number of a database"),
        (f"redis://cache/{'9' * 5_000}", "the path must be the number of a database"),
        ("redis://cache/1/2", "the path must be the number of a database"),
        ("redis://cache/1?db=2", "db: is given twice"),
        ("redis://cache?db=x", "db: must be a number from 0 to 999999"),
        ("redis+cluster://h1/1", "the path must be /0 or absent: a Cluster has one database"),
        ("redis+cluster://h1?db=0", "db: no such parameter"),
        ("redis://cache?sentinel_password=x", "sentinel_password: no such parameter"),
        ("redis://cache?password=%FF", "password: must be UTF-8 where it is percent-encoded"),
        ("redis://:p@cache?password=q", "password: is given twice"),
        ("rediss://cache?ssl_keyfile=/k", "ssl_keyfile: needs ssl_certfile"),
        ("rediss://cache?ssl_cert_reqs=optional", "ssl_cert_reqs: must be one of required, none"),
        ("rediss://cache?ssl_check_hostname=0", "ssl_check_hostname: must be one of true, false"),
        (
            "rediss://cache?ssl_cert_reqs=none&ssl_ca_certs=/ca",
            "ssl_ca_certs: nothing is verified with ssl_cert_reqs=none",
        ),
        (
            "rediss://cache?ssl_cert_reqs=none&ssl_check_hostname=true",
            "ssl_check_hostname: nothing is verified with ssl_cert_reqs=none",
        ),
        ("rediss://cache?skip_verify=true", "skip_verify: write ssl_cert_reqs=none"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, problem: str) -> None:
    assert read_problems(text)[0].startswith(problem)


@pytest.mark.parametrize(
    "text",
    ["redis://", "redis+sentinel://h1", "redis+sentinel://h1/", "unix://", "unix://host/path"],
)
def test_url_of_another_form_says_how_to_write_it(text: str) -> None:
    [problem] = read_problems(text)
    assert problem.startswith("write redis://host:6379/0, rediss://host:6379/0 (TLS), ")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_problem_contains_a_value(scheme: str) -> None:
    for query in (
        f"password={SECRET}&foo={SECRET}",
        f"{SECRET * 4}=1",
        f"db={SECRET}&ssl_cert_reqs={SECRET}",
    ):
        problems = read_problems(build(scheme, query))
        assert SECRET not in str(problems)


def test_passwords_are_not_in_the_repr() -> None:
    url = f"redis+sentinel://:{SECRET}@h/m?sentinel_password={SECRET}"
    assert SECRET not in repr(parse_redis_url(url))
