"""A password that leaves the machine unprotected is logged at start."""

import pytest

from sidegate.core.token import TokenKey
from sidegate.runtime.store_security import find_insecure_stores, warn_about_insecure_stores
from sidegate.settings import Settings, load

PLAIN, UNVERIFIED = "the password is sent in plain text", "the certificate is not verified"


def build_settings(database: str, redis: str = "", listen: str = "") -> Settings:
    return load(
        None,
        {
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
            "SIDEGATE_DATABASE_URL": database,
            "SIDEGATE_REDIS_URL": redis,
            "SIDEGATE_POSTGRES__LISTEN_URL": listen,
        },
    )


@pytest.mark.parametrize(
    ("database", "reason"),
    [
        ("postgresql://u:p@db/x?sslmode=disable", PLAIN),
        ("postgresql://u:p@localhost,db/x?sslmode=disable", PLAIN),
        ("postgresql://u:p@db/x?sslmode=no-verify", UNVERIFIED),
        ("postgresql://u:p@db/x", None),
        ("postgresql://u:p@db/x?sslmode=require", None),
        ("postgresql://u@db/x?sslmode=disable", None),
        ("postgresql://u:p@localhost/x?sslmode=disable", None),
        ("postgresql://u:p@/x?host=/run/postgresql&sslmode=disable", None),
    ],
)
def test_password_to_postgres(database: str, reason: str | None) -> None:
    found = [*find_insecure_stores(build_settings(database))]
    assert [(setting, why, *map(str, hosts)) for setting, why, hosts in found] == (
        [] if reason is None else [("database_url", reason, "db:5432")]
    )


@pytest.mark.parametrize(
    ("redis", "reason"),
    [
        ("redis://:p@cache", PLAIN),
        ("redis+cluster://:p@cache:6379", PLAIN),
        ("redis+sentinel://cache:6379/m?sentinel_password=p", PLAIN),
        ("rediss://:p@cache?ssl_cert_reqs=none", UNVERIFIED),
        ("rediss://:p@cache", None),
        ("redis://cache", None),
        ("redis://:p@127.0.0.1", None),
        ("unix://:p@/run/redis.sock", None),
    ],
)
def test_password_to_redis(redis: str, reason: str | None) -> None:
    found = [*find_insecure_stores(build_settings("postgresql://u:p@db/x", redis))]
    assert [(setting, why, *map(str, hosts)) for setting, why, hosts in found] == (
        [] if reason is None else [("redis_url", reason, "cache:6379")]
    )


def test_each_url_is_one_event_without_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    url = "postgresql://u:hunter2@db,other/x?sslmode=disable"
    warn_about_insecure_stores(build_settings(url, "redis://:hunter2@cache", url))
    assert [
        (record.msg, vars(record)["setting"], vars(record)["hosts"]) for record in caplog.records
    ] == [
        ("store connection insecure", "database_url", "db:5432, other:5432"),
        ("store connection insecure", "postgres.listen_url", "db:5432, other:5432"),
        ("store connection insecure", "redis_url", "cache:6379"),
    ]
    assert "hunter2" not in repr([vars(record) for record in caplog.records])
