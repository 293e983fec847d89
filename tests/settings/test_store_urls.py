"""URLs of stores as settings: every error at once, with its path, and exit status 78."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from sidegate.core import postgres_url, redis_url
from sidegate.core.errors import SettingsError
from sidegate.core.token import TokenKey
from sidegate.settings import load
from tests.support.authority import Authority
from tests.support.pages import ROOT
from tests.support.processes import module_command

SECRET = "hunter2hunter2"
KEYS = {"SIDEGATE_TOKEN__KEYS": TokenKey.generate().format()}
POSTGRES = "postgresql://u@db.example/x"


def load_errors(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(None, KEYS | variables)
    return caught.value.errors


def test_errors_of_all_urls_are_told_at_once() -> None:
    errors = load_errors(
        SIDEGATE_DATABASE_URL=f"postgresql://u:{SECRET}@db/x?foo=1&sslmode=prefer",
        SIDEGATE_POSTGRES__LISTEN_URL=f"postgresql://u:{SECRET}@db/x?bar=1",
        SIDEGATE_REDIS_URL=f"rediss://:{SECRET}@a,b?protocol=3&ssl_ca_certs=/absent",
        SIDEGATE_GATE__DEADLINE="soon",
    )
    text = "\n".join(errors)
    for expected in (
        r"database_url: sslmode: must be one of .* \(from SIDEGATE_DATABASE_URL\)",
        r"database_url: foo: no such parameter \(from SIDEGATE_DATABASE_URL\)",
        r"database_url: postgresql:// allows application_name, .*",
        r"postgres\.listen_url: bar: no such parameter .*",
        r"redis_url: protocol: leave it out.*",
        r"redis_url: names several hosts: .*",
        r"gate\.deadline: .*",
    ):
        assert len(re.findall(f"^{expected}$", text, re.MULTILINE)) == 1, expected
    assert "(from SIDEGATE_REDIS_URL)" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("variable", "url", "error"),
    [
        (
            "SIDEGATE_DATABASE_URL",
            f"{POSTGRES}?sslrootcert=/absent",
            "database_url: sslrootcert: the file cannot be read: No such file or directory",
        ),
        (
            "SIDEGATE_DATABASE_URL",
            f"{POSTGRES}?sslcert=/absent&sslkey=/absent",
            "database_url: sslcert: the file cannot be read: No such file or directory",
        ),
        (
            "SIDEGATE_REDIS_URL",
            "rediss+sentinel://h/m?ssl_ca_certs=/absent",
            "redis_url: ssl_ca_certs: the file cannot be read: No such file or directory",
        ),
        (
            "SIDEGATE_REDIS_URL",
            "rediss+cluster://h?ssl_certfile=/absent",
            "redis_url: ssl_certfile: the file cannot be read: No such file or directory",
        ),
    ],
)
def test_file_that_cannot_be_used_is_an_error(variable: str, url: str, error: str) -> None:
    errors = load_errors(**({"SIDEGATE_DATABASE_URL": POSTGRES} | {variable: url}))
    assert errors == [f"{error} (from {variable})"]


def test_files_that_can_be_used_are_accepted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("client")
    redis = f"ssl_ca_certs={authority.ca_file}&ssl_certfile={own.cert_file}"
    settings = load(
        None,
        KEYS
        | {
            "SIDEGATE_DATABASE_URL": f"{POSTGRES}?sslrootcert={authority.ca_file}"
            f"&sslcert={own.cert_file}&sslkey={own.key_file}",
            "SIDEGATE_REDIS_URL": f"rediss+cluster://h?{redis}&ssl_keyfile={own.key_file}",
        },
    )
    assert settings.redis_url is not None


# Parameters of libpq, of other drivers, and of the consoles of managed services.
USUAL_POSTGRES = """
application_name channel_binding client_encoding connect_timeout connection_limit dbname
fallback_application_name gssencmode host hostaddr keepalives keepalives_count keepalives_idle
keepalives_interval krbsrvname load_balance_hosts options passfile password pgbouncer port
replication require_auth schema service ssl ssl_max_protocol_version ssl_min_protocol_version
sslcert sslcertmode sslcompression sslcrl sslkey sslmode sslnegotiation sslpassword sslrootcert
sslsni statement_cache_size target_session_attrs tcp_user_timeout user
""".split()  # noqa: SIM905  # a list of words
USUAL_REDIS = """
client_name db decode_responses encoding health_check_interval max_connections password protocol
retry_on_timeout socket_connect_timeout socket_keepalive socket_timeout ssl ssl_ca_certs
ssl_ca_data ssl_cert_reqs ssl_certfile ssl_check_hostname ssl_ciphers ssl_keyfile ssl_min_version
ssl_password timeout username
""".split()  # noqa: SIM905  # a list of words


def find_error(**variables: str) -> str:
    """Return the first error in these settings, or an empty text."""
    try:
        load(None, KEYS | variables)
    except SettingsError as error:
        return error.errors[0]
    return ""


@pytest.mark.parametrize("name", USUAL_POSTGRES)
def test_usual_parameter_of_postgres_is_allowed_or_named(name: str) -> None:
    """Whatever its value: no driver gets to see it."""
    for value in "1", "require", "/absent":
        url = f"postgresql://u@db/x?{name}={value}"
        error = find_error(SIDEGATE_DATABASE_URL=url)
        assert error.startswith(f"database_url: {name}: ") or (
            not error and name in postgres_url.PARAMETERS
        )


@pytest.mark.parametrize("scheme", redis_url.SCHEMES)
@pytest.mark.parametrize("name", USUAL_REDIS)
def test_usual_parameter_of_redis_is_allowed_or_named(scheme: str, name: str) -> None:
    host = "" if scheme == "unix" else "h"
    for value in "1", "none", "/absent":
        url = f"{scheme}://{host}{'/m' if scheme.endswith('sentinel') else '/'}?{name}={value}"
        url = url.replace("unix:///", "unix:///run/redis.sock")
        error = find_error(SIDEGATE_DATABASE_URL=POSTGRES, SIDEGATE_REDIS_URL=url)
        assert error.startswith(f"redis_url: {name}: ") or (
            not error and name in redis_url.SCHEMES[scheme]
        )


@pytest.mark.parametrize("command", [("config", "check"), ("serve",), ("migrate",)])
def test_exit_status_of_every_command_is_78_without_a_traceback(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    result = subprocess.run(
        module_command("sidegate", *command),
        env=KEYS
        | {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "proxy"),
            "SIDEGATE_DATA_DIR": str(tmp_path),
            "SIDEGATE_DATABASE_URL": f"postgresql://u:{SECRET}@db/x?foo={SECRET}",
            "SIDEGATE_REDIS_URL": f"redis://:{SECRET}@a,b?foo={SECRET}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 78
    for line in "database_url: foo: no such parameter", "redis_url: foo: no such parameter":
        assert f"  {line} (from SIDEGATE_" in result.stderr
    assert "Traceback" not in result.stderr
    assert SECRET not in result.stderr + result.stdout


def test_page_has_the_parameters_of_every_scheme() -> None:
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    section = page.partition("## Store URLs and TLS")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", section, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    allowed = {name for table in redis_url.SCHEMES.values() for name in table}

    assert documented == allowed | set(postgres_url.PARAMETERS)
