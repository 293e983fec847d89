"""Settings: sources, validation, and masking of secrets."""

import json
import os
import stat
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with openapi-spec-validator, without types
import pytest
import yaml
from pydantic import ValidationError

from sidegate.core.address import Address
from sidegate.core.binding import BindingPolicy, Signal
from sidegate.core.errors import SettingsError
from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes, Preset, get_preset_lifetimes
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.session_type import SessionType
from sidegate.core.token import TokenKey
from sidegate.settings import Settings, load, read_admin_key, read_token_keys
from sidegate.settings.sections import ProviderSection
from sidegate.settings.show import build_schema, render_settings
from sidegate.settings.sources import iter_settings, variable_name
from sidegate.settings.values import format_duration, format_size, parse_duration, parse_size

CONFIG = Path(__file__).parents[2] / "config"
KEY = TokenKey(1, bytes(32)).format()
SHARED = {"SIDEGATE_DATABASE_URL": "postgresql://db/sidegate", "SIDEGATE_TOKEN__KEYS": KEY}


def write_config(folder: Path, text: str) -> Path:
    path = folder / "sidegate.yaml"
    path.write_text(text)
    return path


def load_errors(config: Path | None = None, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(config, environ)
    return caught.value.errors


def load_error(config: Path | None = None, **environ: str) -> str:
    (error,) = load_errors(config, **environ)
    return error


# --- sources


def test_settings_without_sources_are_the_defaults() -> None:
    settings = load(None, {})

    assert settings == Settings()
    assert settings.gate.listen == Address("127.0.0.1", 7080)
    assert settings.gate.deadline == timedelta(milliseconds=150)
    assert settings.sessions.lifetimes_by_type() == DEFAULT_LIFETIMES


def test_variable_overrides_file_and_file_overrides_default(tmp_path: Path) -> None:
    config = write_config(tmp_path, "gate: {realm: file, cookie: file}\nlogs: {level: debug}")

    settings = load(config, {"SIDEGATE_GATE__REALM": "variable"})

    assert (settings.gate.realm, settings.gate.cookie) == ("variable", "file")
    assert settings.gate.bearer is True
    assert settings.logs.level == "debug"


def test_file_variable_sets_the_file_content_without_last_newline(
    tmp_path: Path,
) -> None:
    (tmp_path / "url").write_text("postgresql://u:p@db/sidegate\n")
    (tmp_path / "keys").write_text(f"{TokenKey(2, bytes(32)).format()}\r\n{KEY}\r\n")

    settings = load(
        None,
        {
            "SIDEGATE_DATABASE_URL_FILE": str(tmp_path / "url"),
            "SIDEGATE_TOKEN__KEYS_FILE": str(tmp_path / "keys"),
        },
    )

    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:p@db/sidegate"
    assert [key.id for key in settings.token.keys] == [2, 1]


@pytest.mark.parametrize(
    "text", ['["10.0.0.0/8", "::1"]', "10.0.0.0/8,::1", "10.0.0.0/8, ::1", "10.0.0.0/8\n::1"]
)
def test_list_of_texts_is_json_or_separated_by_commas_or_newlines(text: str) -> None:
    settings = load(None, {"SIDEGATE_GATE__TRUSTED_PEERS": text})

    assert settings.gate.trusted_peers == (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def test_objects_are_json_and_single_variables_override_them() -> None:
    settings = load(
        None,
        {
            "SIDEGATE_ADMIN__KEYS": json.dumps(
                [{"name": "ci", "sha256": "AB" * 32, "scopes": ["read", "revoke"]}]
            ),
            "SIDEGATE_GATE": '{"realm": "object", "bearer": false}',
            "SIDEGATE_GATE__REALM": "variable",
        },
    )

    (key,) = settings.admin.keys
    assert (key.name, key.sha256, key.scopes) == ("ci", "ab" * 32, ("read", "revoke"))
    assert (settings.gate.realm, settings.gate.bearer) == ("variable", False)


def test_empty_variable_counts_as_not_set() -> None:
    assert load(None, {"SIDEGATE_REDIS_URL": "", "SIDEGATE_DATABASE_URL_FILE": ""}) == Settings()


def test_variable_can_set_null() -> None:
    settings = load(
        None, {"SIDEGATE_GATE__COOKIE": "none", "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "null"}
    )

    assert settings.gate.cookie is None
    assert settings.sessions.web.idle_timeout is None


def test_data_dir_follows_xdg_state_home(tmp_path: Path) -> None:
    assert load(None, {"XDG_STATE_HOME": str(tmp_path)}).data_dir == tmp_path / "sidegate"
    assert load(None, {"XDG_STATE_HOME": "relative"}).data_dir == (
        Path.home() / ".local/state/sidegate"
    )
    assert load(None, {"XDG_STATE_HOME": "/x", "SIDEGATE_DATA_DIR": "/y"}).data_dir == Path("/y")


def test_service_variables_of_kubernetes_are_ignored() -> None:
    names = [
        "SIDEGATE_SERVICE_HOST",
        "SIDEGATE_SERVICE_PORT",
        "SIDEGATE_SERVICE_PORT_GATE",
        "SIDEGATE_PORT",
        "SIDEGATE_PORT_7080_TCP",
        "SIDEGATE_PORT_7080_TCP_ADDR",
        "SIDEGATE_ADMIN_SERVICE_HOST",
        "SIDEGATE_ADMIN_PORT_7081_TCP_PROTO",
    ]

    assert load(None, dict.fromkeys(names, "tcp://10.0.0.1:7080")) == Settings()


def test_no_setting_has_the_name_of_a_kubernetes_service_variable() -> None:
    environ = {variable_name(setting.path): "{" for setting in iter_settings()}

    errors = "\n".join(load_errors(None, **environ))

    # An error proves that the variable is read. These two settings accept any text.
    paths = [setting.path for setting in iter_settings()]
    accepted = [path for path in paths if variable_name(path) not in errors]
    assert accepted == [("data_dir",), ("gate", "realm")]


def test_lifetimes_of_one_type_are_set_in_the_file(tmp_path: Path) -> None:
    config = write_config(tmp_path, "sessions: {service: {lifetime: 90d, idle_timeout: 1d}}")

    lifetimes = load(config, {}).sessions.lifetimes_by_type()

    assert lifetimes[SessionType.SERVICE] == Lifetimes(timedelta(days=90), timedelta(days=1))
    assert lifetimes[SessionType.WEB] == DEFAULT_LIFETIMES[SessionType.WEB]


def test_limits_has_the_types_with_a_limit(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, "sessions: {web: {limit: 5}, api: {limit: 1, at_limit: refuse}}"
    )

    settings = load(config, {"SIDEGATE_SESSIONS__SSO__LIMIT": "2"})

    assert settings.sessions.limits_by_type() == {
        SessionType.WEB: Limit(5, AtLimit.EVICT_OLDEST),
        SessionType.API: Limit(1, AtLimit.REFUSE),
        SessionType.SSO: Limit(2, AtLimit.EVICT_OLDEST),
    }


# --- validation


def test_all_errors_are_reported_at_once_with_path_and_source(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        "gate: {deadline: soon, bearrer: true}\nadmin: {keys: [{name: x}]}\nredis_url: http://x",
    )

    errors = load_errors(
        config,
        SIDEGATE_OPS__LISTEN="7082",
        SIDEGATE_GATE__TRUSTED_PEERS="0.0.0.0/0",
        SIDEGATE_FOO="1",
        SIDEGATE_SESSIONS__WEB__GRACE="10m",
    )

    starts = [error.partition(": ")[0] for error in errors]
    assert sorted(starts) == [
        "SIDEGATE_FOO",
        "admin.keys[0].scopes",
        "admin.keys[0].sha256",
        "gate.bearrer",
        "gate.deadline",
        "gate.trusted_peers[0]",
        "ops.listen",
        "redis_url",
        "redis_url",  # malformed, and without database_url
        "sessions.web",
    ]
    by_start = dict(zip(starts, errors, strict=True))
    assert by_start["gate.bearrer"].endswith(f"did you mean bearer? (from {config})")
    assert by_start["ops.listen"].endswith("(from SIDEGATE_OPS__LISTEN)")
    assert "between 0s and 300s" in by_start["sessions.web"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SIDEGATE_GATE__LISTENS", "SIDEGATE_GATE__LISTEN"),
        ("SIDEGATE_GATE_LISTEN", "SIDEGATE_GATE__LISTEN"),
        ("SIDEGATE_DATABASE_URLS_FILE", "SIDEGATE_DATABASE_URL"),
        ("SIDEGATE_DATABASE_URL__X", "SIDEGATE_DATABASE_URL"),
        ("SIDEGATE_gate__listen", "SIDEGATE_GATE__LISTEN"),
    ],
)
def test_unknown_variable_error_suggests_a_similar_name(name: str, expected: str) -> None:
    assert load_error(None, **{name: "x"}) == f"{name}: no such setting; did you mean {expected}?"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("gates: {}", "gates"),
        ("gate: {lisen: x}", "gate.lisen"),
        ("sessions: {web: {life: 1h}}", "sessions.web.life"),
        ("_env_file: /etc/passwd", "_env_file"),
        (
            f"admin: {{keys: [{{name: a, sha256: '{'0' * 64}', scopes: [read], x: 1}}]}}",
            "admin.keys[0].x",
        ),
    ],
)
def test_unknown_key_is_an_error_at_any_depth(text: str, path: str, tmp_path: Path) -> None:
    assert load_error(write_config(tmp_path, text)).startswith(f"{path}: no such setting")


def test_variable_and_file_variable_of_one_setting_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "realm").write_text("x")

    error = load_error(
        None, SIDEGATE_GATE__REALM="x", SIDEGATE_GATE__REALM_FILE=str(tmp_path / "realm")
    )

    assert error == "gate.realm: set SIDEGATE_GATE__REALM or SIDEGATE_GATE__REALM_FILE, not both"


def test_unreadable_value_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert "No such file" in load_error(None, SIDEGATE_GATE__REALM_FILE=str(tmp_path / "none"))
    assert "UTF-8" in load_error(None, SIDEGATE_GATE__REALM_FILE=str(tmp_path / "binary"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("gate: {", "is not valid YAML in line 1"),
        ("- gate", "is not a mapping"),
        ("just text", "is not a mapping"),
        ("logs: {level: info}\nlogs: {level: debug}", "the key in line 2 is a duplicate"),
        ("gate: {realm: a, realm: b}", "the key in line 1 is a duplicate"),
        ("1: x", "the key in line 1 is not a text"),
        ("gate: &a {realm: !!python/name:os.system x}", "is not valid YAML"),
        ("gate:\n  realm: 2024-02-30", "is not valid YAML in line 2, column 10"),
        ("gate: {realm: 0b_}", "is not valid YAML in line 1"),
        ("gate: {realm: !!int abc}", "is not valid YAML in line 1"),
        ("gate: {realm: !!bool perhaps}", "is not valid YAML in line 1"),
        ("gate: {realm: !!timestamp noon}", "is not valid YAML in line 1"),
        ("gate: {realm: 1" + 300 * ":00" + ".5}", "is not valid YAML in line 1"),
        ("gate: " + 1000 * "[", "is nested too deeply"),
    ],
)
def test_malformed_config_file_is_an_error(text: str, error: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, text)

    assert load_error(config).startswith(f"{config}: ")
    assert error in load_error(config)


def test_missing_or_binary_config_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert "cannot be read: No such file" in load_error(tmp_path / "none.yaml")
    assert "is not UTF-8" in load_error(tmp_path / "binary")


def test_empty_config_file_sets_nothing(tmp_path: Path) -> None:
    assert load(write_config(tmp_path, "# nothing\n"), {}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATE__LISTEN", "localhost"),
        ("GATE__LISTEN", "127.0.0.1:99999"),
        ("GATE__LISTEN", "unix:relative.sock"),
        ("GATE__LISTEN", "a;b:7080"),
        ("OPS__LISTEN", "256.0.0.1:7082"),
        ("GATE__SOCKET_MODE", "rw-rw----"),
        ("GATE__SOCKET_MODE", "1660"),
        ("GATE__TRUSTED_PEERS", "::/0"),
        ("GATE__TRUSTED_PEERS", "10.0.0.1/8"),
        ("GATE__TRUSTED_PEERS", "gateway.internal"),
        ("GATE__TRUSTED_PEERS", '["10.0.0.0/8"'),
        ("GATE__COOKIE", "a b"),
        ("GATE__HEADER", "Authorization"),
        ("GATE__HEADER", "X Token"),
        ("GATE__REALM", 'a"b'),
        ("GATE__DEADLINE", "0"),
        ("GATE__DEADLINE", "-1s"),
        ("GATE__DEADLINE", "1 fortnight"),
        ("GATE__DEADLINE", "4000d"),
        ("GATE", "x"),
        ("GATE__BEARER", "maybe"),
        ("ADMIN__HOSTS", "localhost:7081"),
        ("ADMIN__KEYS", "x"),
        ("ADMIN__KEYS", '[{"name": "a b", "sha256": "' + "0" * 64 + '", "scopes": ["read"]}]'),
        ("ADMIN__KEYS", '[{"name": "a", "sha256": "0", "scopes": ["read"]}]'),
        ("ADMIN__KEYS", '[{"name": "a", "sha256": "' + "0" * 64 + '", "scopes": []}]'),
        ("ADMIN__KEYS", '[{"name": "a", "sha256": "' + "0" * 64 + '", "scopes": ["root"]}]'),
        ("GATE__FAST_PATH", "often"),
        ("GATE__MAX_CONNECTIONS", "0"),
        ("MEMORY__MAX_SESSIONS", "0"),
        ("MEMORY__MAX_BYTES", "128MB"),
        ("MEMORY__MAX_BYTES", "1023KiB"),
        ("MEMORY__MAX_BYTES", "2048GiB"),
        ("LOGS__LEVEL", "loud"),
        ("POSTGRES__POOL_MAX", "many"),
        ("TOKEN__KEYS", "1:short"),
        ("TOKEN__KEYS", "256:" + "A" * 43),
        ("TOKEN__KEYS", f"{KEY},{KEY}"),
        ("SSO__PROVIDERS", "idp"),
        ("SSO__PROVIDERS", '[{"name": "idp"'),
        ("SESSIONS__WEB__IDLE_TIMEOUT", "1m"),
        ("SESSIONS__WEB__TOUCH_THRESHOLD", "10m1s"),
        ("TOUCH__INTERVAL", "10m1s"),
        ("SESSIONS__WEB__LIFETIME", "0"),
        ("SESSIONS__WEB__LIMIT", "0"),
        ("SESSIONS__WEB__LIMIT", "few"),
        ("SESSIONS__WEB__AT_LIMIT", "evict"),
    ],
)
def test_invalid_value_is_an_error_with_path_and_source(variable: str, value: str) -> None:
    error = load_error(None, **{f"SIDEGATE_{variable}": value})

    assert error.startswith(variable.lower().replace("__", ".")[:8])
    assert f"(from SIDEGATE_{variable})" in error


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/x",
        "postgresql:/db",
        "postgresql://u:p/w@db/x",
        "postgresql://u:p@db/x#y",
        "db:5432",
        "postgresql://db:abc/x",
        "postgresql://db:5432:1/x",
    ],
)
def test_malformed_database_url_is_an_error(url: str) -> None:
    error = load_error(None, SIDEGATE_DATABASE_URL=url, SIDEGATE_TOKEN__KEYS=KEY)

    assert error.startswith("database_url: write postgresql://")


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://:p%40ss@cache:6379/1",
        "rediss://u:p@[::1]:6380",
        "redis+sentinel://h1:26379,h2:26379/mymaster/0",
        "redis+sentinel://:p@h1/mymaster",
        "redis+cluster://h1:6379,h2:6379",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_every_form_of_redis_url_is_accepted(url: str) -> None:
    settings = load(None, SHARED | {"SIDEGATE_REDIS_URL": url})

    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "http://cache",
        "redis://",
        "redis+sentinel://h1:26379",
        "redis",
        "redis://cache:abc/0",
        "redis+cluster://h1:6379,h2:abc",
    ],
)
def test_malformed_redis_url_is_an_error(url: str) -> None:
    error = load_error(None, **SHARED, SIDEGATE_REDIS_URL=url)

    assert error.startswith("redis_url: write redis://")


def test_redis_without_database_is_an_error() -> None:
    assert "Redis is a cache and needs a database" in load_error(
        None, SIDEGATE_REDIS_URL="redis://cache"
    )


def test_listen_url_without_database_is_an_error() -> None:
    error = load_error(None, SIDEGATE_POSTGRES__LISTEN_URL="postgresql://db/sidegate")

    assert error.startswith("postgres.listen_url: needs PostgreSQL")


def test_listen_url_is_a_secret() -> None:
    url = "postgresql://listener:secretpass@db:5432/sidegate"
    settings = load(None, SHARED | {"SIDEGATE_POSTGRES__LISTEN_URL": url})

    assert settings.postgres.listen_url is not None
    assert settings.postgres.listen_url.get_secret_value() == url
    assert "secretpass" not in repr(settings)
    assert "secretpass" not in settings.model_dump_json()


def test_database_without_token_keys_is_an_error() -> None:
    error = load_error(None, SIDEGATE_DATABASE_URL="postgresql://db/sidegate")

    assert error.startswith("token.keys: is required with database_url")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:7000", "127.0.0.1:7000"),
        ("0.0.0.0:7000", "127.0.0.1:7000"),
        ("[::]:7000", "10.0.0.1:7000"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_two_listeners_with_one_address_are_an_error(one: str, other: str) -> None:
    error = load_error(None, SIDEGATE_GATE__LISTEN=one, SIDEGATE_ADMIN__LISTEN=other)

    assert error.startswith("admin.listen: is the address of gate.listen, too")


def test_two_listeners_may_both_have_port_0() -> None:
    load(None, {"SIDEGATE_GATE__LISTEN": "[::1]:0", "SIDEGATE_ADMIN__LISTEN": "[::1]:0"})


def test_gate_without_source_of_credentials_is_an_error() -> None:
    none = {"SIDEGATE_GATE__BEARER": "false", "SIDEGATE_GATE__COOKIE": "none"}

    assert load_error(None, **none).startswith("gate: no source of credentials")
    for name, value in (("HEADER", "X-Token"), ("BASIC", "true"), ("WEBSOCKET_PROTOCOL", "true")):
        load(None, none | {f"SIDEGATE_GATE__{name}": value})


RESERVED_HEADERS = [
    *("Authorization", "cookie", "Sec-WebSocket-Protocol", "User-Agent", "Accept-Language"),
    *("Connection", "Content-Length", "content_length", "Content-Type", "Expect", "Host"),
    *("HTTP2-Settings", "Keep-Alive", "Proxy", "Proxy-Authorization", "TE", "Trailer"),
    *("transfer-encoding", "Transfer.Encoding", "Upgrade"),
    *("Cache-Control", "Date", "Location", "Retry-After", "Set-Cookie", "WWW-Authenticate"),
    *("Forwarded", "X-Forwarded-For", "x_forwarded_for", "X-Forwarded-Uri", "X-Original-URI"),
    *("X-Original-Method", "X-Real-IP", "X-Request-Id"),
    *("X-Accel-Redirect", "X-Auth-Source", "X-Auth-Status", "x-envoy-auth-headers-to-remove"),
]
CLIENT_HEADERS = {
    "gate.header": "SIDEGATE_GATE__HEADER",
    "binding.header.name": "SIDEGATE_BINDING__HEADER__NAME",
}
HEADERS = CLIENT_HEADERS | {
    "gate.identity.user": "SIDEGATE_GATE__IDENTITY__USER",
    "gate.identity.expires": "SIDEGATE_GATE__IDENTITY__EXPIRES",
}


@pytest.mark.parametrize("name", RESERVED_HEADERS)
@pytest.mark.parametrize(("path", "variable"), HEADERS.items(), ids=HEADERS)
def test_header_that_has_another_use_is_an_error(path: str, variable: str, name: str) -> None:
    assert load_error(None, **{variable: name}).startswith(f"{path}: must be another header: ")


@pytest.mark.parametrize(
    "name", ["X-Forwarded-User", "X_Forwarded_User", "X-Original-User", "Proxy-User", "x-envoy-a"]
)
def test_header_that_clients_cannot_choose_is_only_for_the_identity(name: str) -> None:
    for path, variable in CLIENT_HEADERS.items():
        assert load_error(None, **{variable: name}).startswith(f"{path}: must be another header: ")
    assert load(None, {"SIDEGATE_GATE__IDENTITY__USER": name}).gate.identity.user == name


@pytest.mark.parametrize(
    "name",
    [
        *("Remote-User", "Remote-Groups", "X-WEBAUTH-USER", "X-Forwarded-User", "User"),
        *("X-Forwarded-Groups", "X-Forwarded-Email", "X-Forwarded-Preferred-Username"),
        *("X-Auth-Request-User", "X_Remote_User", "From"),
    ],
)
def test_identity_header_of_another_product_is_accepted(name: str) -> None:
    assert load(None, {"SIDEGATE_GATE__IDENTITY__USER": name}).gate.identity.user == name


@pytest.mark.parametrize(
    "name", ["X-Device", "Sec-CH-UA-Platform", "X-Forwarded-Client-Cert", "DPoP", "X-API-Key"]
)
def test_header_of_clients_is_accepted(name: str) -> None:
    for variable in CLIENT_HEADERS.values():
        load(None, {variable: name})


@pytest.mark.parametrize(
    ("headers", "path", "other"),
    [
        ({"gate.header": "X-Auth-User"}, "gate.header", "gate.identity.user"),
        ({"gate.header": "x_auth_user"}, "gate.header", "gate.identity.user"),
        ({"binding.header.name": "X~Auth.Expires"}, "binding.header.name", "gate.identity.expires"),
        (
            {"gate.header": "X-A", "binding.header.name": "x.a"},
            "binding.header.name",
            "gate.header",
        ),
        (
            {"gate.identity.user": "Remote-User", "gate.identity.expires": "REMOTE_USER"},
            "gate.identity.expires",
            "gate.identity.user",
        ),
        # The default is not reported.
        ({"gate.identity.user": "X-Auth-Expires"}, "gate.identity.user", "gate.identity.expires"),
    ],
)
def test_equal_headers_are_an_error(headers: dict[str, str], path: str, other: str) -> None:
    error = load_error(None, **{HEADERS[path]: name for path, name in headers.items()})

    assert error.startswith(f"{path}: is the name of {other}, too")
    assert error.endswith(f"(from {HEADERS[path]})")


def test_identity_headers_may_exchange_their_names() -> None:
    names = {"gate.identity.user": "X-Auth-Expires", "gate.identity.expires": "X-Auth-User"}

    load(None, {HEADERS[path]: name for path, name in names.items()})


def test_all_wrong_headers_are_reported_at_once() -> None:
    errors = load_errors(
        None,
        SIDEGATE_GATE__HEADER="Upgrade",
        SIDEGATE_BINDING__HEADER__NAME="X-Auth-Session",
        SIDEGATE_GATE__IDENTITY__USER="Host",
        SIDEGATE_GATE__IDENTITY__TIME="X-Auth-Scopes",
    )

    assert sorted(error.partition(":")[0] for error in errors) == [
        "binding.header.name",
        "gate.header",
        "gate.identity.time",
        "gate.identity.user",
    ]


def test_admin_keys_with_equal_names_or_hashes_are_an_error() -> None:
    def keys(*pairs: tuple[str, str]) -> str:
        return json.dumps([{"name": n, "sha256": h * 64, "scopes": ["read"]} for n, h in pairs])

    equal_names = load_error(None, SIDEGATE_ADMIN__KEYS=keys(("a", "0"), ("a", "1")))
    equal_hashes = load_error(None, SIDEGATE_ADMIN__KEYS=keys(("a", "0"), ("b", "0")))

    assert "have the same name" in equal_names
    assert "have the same key" in equal_hashes


IDP: dict[str, Any] = {"name": "idp", "issuer": "https://id.example/r", "client_id": "shop"}


def providers(*changes: dict[str, Any]) -> str:
    """Return a provider for each of `changes`, valid except for these."""
    listed = [IDP | {"name": f"idp{number}"} | each for number, each in enumerate(changes)]
    return json.dumps(listed)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "Key.cloak_2-b"},
        {"issuer": "https://id.example/"},
        {"issuer": "https://id.example:8443/realms/a/b"},
        {"issuer": "http://localhost:8080/realms/a"},
        {"issuer": "http://keycloak:8080/realms/a", "jwks_file": "/etc/sidegate/keys.json"},
        {"issuer": "http://keycloak:8080/realms/a", "jwks_uri": "https://keycloak/keys"},
        {"jwks_uri": "https://keys.example:8443/a/b?c=d"},
        {"jwks_uri": "http://127.0.0.1:8080/keys"},
        {"jwks_uri": "http://[::1]:8080/keys"},
        {"jwks_uri": None, "jwks_file": None},
        {"jwks_max_age": "1m"},
        {"algorithms": ["ES512"]},
        {"algorithms": "RS256 EdDSA"},
        {"require_typ": False},
        {"client_id": "a client: 7"},
    ],
    ids=json.dumps,
)
def test_valid_provider_is_accepted(changes: dict[str, Any]) -> None:
    (provider,) = load(None, {"SIDEGATE_SSO__PROVIDERS": providers(changes)}).sso.providers

    assert provider.issuer == (IDP | changes)["issuer"]


def test_provider_has_safe_defaults() -> None:
    (provider,) = load(None, {"SIDEGATE_SSO__PROVIDERS": json.dumps([IDP])}).sso.providers

    assert provider.model_dump(mode="json") == IDP | {
        "jwks_uri": None,
        "jwks_file": None,
        "jwks_max_age": "1h",
        "algorithms": ["RS256", "PS256", "ES256", "EdDSA"],
        "require_typ": True,
    }


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": ""}, ".name"),
        ({"name": "a/b"}, ".name"),
        ({"name": ".."}, ".name"),
        ({"name": "x" * 65}, ".name"),
        ({"issuer": "id.example"}, ".issuer"),
        ({"issuer": "ftp://id.example"}, ".issuer"),
        ({"issuer": "https://id.example/?a"}, ".issuer"),
        ({"issuer": "https://id.example/#a"}, ".issuer"),
        ({"issuer": "https://id.example/ü"}, ".issuer"),
        ({"issuer": "https://id.example/ "}, ".issuer"),
        ({"issuer": "http://id.example"}, ""),
        ({"issuer": "https://user@id.example"}, ""),
        ({"client_id": ""}, ".client_id"),
        ({"client_id": "a\nb\n"}, ".client_id"),
        ({"jwks_uri": "http://id.example/keys"}, ".jwks_uri"),
        ({"jwks_uri": "https://id.example/keys#a"}, ".jwks_uri"),
        ({"jwks_uri": "https://u:p@id.example/keys"}, ".jwks_uri"),
        ({"jwks_uri": "file:///keys.json"}, ".jwks_uri"),
        ({"jwks_uri": "https://id.example", "jwks_file": "/keys.json"}, ""),
        ({"jwks_max_age": "59s"}, ".jwks_max_age"),
        ({"algorithms": []}, ".algorithms"),
        ({"algorithms": ["none"]}, ".algorithms[0]"),
        ({"algorithms": ["RS256", "HS256"]}, ".algorithms[1]"),
        ({"algorithms": ["rs256"]}, ".algorithms[0]"),
        ({"require_typ": "perhaps"}, ".require_typ"),
        ({"client_secret": "x"}, ".client_secret"),
    ],
    ids=str,
)
def test_invalid_provider_is_an_error_with_path_and_source(
    changes: dict[str, Any], path: str
) -> None:
    error = load_error(None, SIDEGATE_SSO__PROVIDERS=providers(changes))

    assert error.startswith(f"sso.providers[0]{path}: ")
    assert error.endswith("(from SIDEGATE_SSO__PROVIDERS)")


def test_all_errors_of_all_providers_are_reported_at_once() -> None:
    wrong = providers({"issuer": "x", "algorithms": ["HS256"]}, {"name": "/"})

    errors = load_errors(None, SIDEGATE_SSO__PROVIDERS=wrong)

    assert [each.partition(": ")[0] for each in errors] == [
        "sso.providers[0].issuer",
        "sso.providers[0].algorithms[0]",
        "sso.providers[1].name",
    ]


def test_providers_with_equal_names_are_an_error() -> None:
    error = load_error(None, SIDEGATE_SSO__PROVIDERS=providers({"name": "a"}, {"name": "a"}))

    assert "have the same name" in error


def test_providers_without_admin_keys_are_an_error() -> None:
    environ = SHARED | {"SIDEGATE_SSO__PROVIDERS": providers({})}
    key = [{"name": "ci", "sha256": "0" * 64, "scopes": ["read"]}]

    assert load_error(None, **environ).startswith(
        "sso.providers: providers call the admin listener"
    )
    load(None, environ | {"SIDEGATE_ADMIN__KEYS": json.dumps(key)})


@pytest.mark.parametrize("policy", ["off", "log", "deny", "revoke", '"deny"', "Revoke", "OFF"])
def test_policy_may_be_unquoted_and_in_any_case(policy: str, tmp_path: Path) -> None:
    config = write_config(
        tmp_path, f"binding: {{ip: {policy}, header: {{name: X-Id, policy: {policy}}}}}"
    )

    policies = load(config, {}).binding.policies()

    expected = BindingPolicy(policy.strip('"').lower())
    assert policies == {
        Signal.IP: expected,
        Signal.USER_AGENT: BindingPolicy.OFF,
        Signal.ACCEPT_LANGUAGE: BindingPolicy.OFF,
        Signal.HEADER: expected,
    }


def test_policy_is_set_by_a_variable() -> None:
    environ = {"SIDEGATE_BINDING__IP": "off", "SIDEGATE_BINDING__USER_AGENT": "deny"}

    policies = load(None, environ).binding.policies()

    assert (policies[Signal.IP], policies[Signal.USER_AGENT]) == (
        BindingPolicy.OFF,
        BindingPolicy.DENY,
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("binding: {ip: on}", "binding.ip"),
        ("binding: {ip: strict}", "binding.ip"),
        ("binding: {ipv4_prefix: 33}", "binding.ipv4_prefix"),
        ("binding: {ipv6_prefix: 0}", "binding.ipv6_prefix"),
        ("binding: {header: {policy: deny}}", "binding.header"),
        ("binding: {header: {name: Cookie}}", "binding.header.name"),
        ("binding: {header: {name: 'X Id'}}", "binding.header.name"),
        ("gate: {trusted_hops: -1}", "gate.trusted_hops"),
    ],
)
def test_invalid_binding_is_an_error(text: str, path: str, tmp_path: Path) -> None:
    assert load_error(write_config(tmp_path, text)).startswith(f"{path}: ")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(None, {}).gate.realm = "other"


# --- secrets


SECRET = "geheim" + "A" * 37
WRONG = {
    "SIDEGATE_DATABASE_URL": f"mysql://user:{SECRET}@db",
    "SIDEGATE_REDIS_URL": f"http://:{SECRET}@cache",
    "SIDEGATE_TOKEN__KEYS": f"1:{SECRET}!",
    "SIDEGATE_GATE": f'{{"{SECRET}": 1}}',
    "SIDEGATE_ADMIN__KEYS": json.dumps(
        [{"name": f"{SECRET} x", "sha256": SECRET, "scopes": SECRET}]
    ),
    "SIDEGATE_OPS__LISTEN": SECRET,
    "SIDEGATE_MEMORY__MAX_SESSIONS": SECRET,
    "SIDEGATE_LOGS__LEVEL": SECRET,
    "SIDEGATE_SESSIONS__WEB__LIFETIME": SECRET,
}


def test_no_error_contains_the_value() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, WRONG)

    assert len(caught.value.errors) >= len(WRONG)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"token: {{'1:{SECRET}': x}}",
        f"database_url: *{SECRET}",
        f'database_url: "\\q{SECRET}"',
        f"database_url: [{SECRET}]",
        f"database_url: {SECRET}: x",
    ],
)
def test_no_error_contains_a_secret_in_the_wrong_place_of_the_file(
    text: str, tmp_path: Path
) -> None:
    assert SECRET not in "\n".join(load_errors(write_config(tmp_path, text)))


def test_repr_and_show_mask_secrets() -> None:
    environ = {
        "SIDEGATE_DATABASE_URL": f"postgresql://u:{SECRET}@db:5432/x?password={SECRET}",
        "SIDEGATE_REDIS_URL": f"redis+sentinel://:{SECRET}@h1,h2/mymaster/0",
        "SIDEGATE_TOKEN__KEYS": f"7:{SECRET}",
    }

    settings = load(None, environ)
    text = render_settings(None, environ)

    for output in (repr(settings), str(settings), text, settings.model_dump_json()):
        assert SECRET not in output
    assert "database_url: postgresql://***@db:5432/x?***" in text
    assert "redis_url: redis+sentinel://***@h1,h2/mymaster/0" in text
    assert "keys: ['7:***']" in text


# --- show, the config files, the schema


def test_show_has_the_source_of_each_value(tmp_path: Path) -> None:
    config = write_config(tmp_path, "gate: {realm: mine}\nmemory: {max_age: 1s}")
    (tmp_path / "age").write_text("2s")

    text = render_settings(config, {"SIDEGATE_MEMORY__MAX_AGE_FILE": str(tmp_path / "age")})

    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert f"realm: mine # {config}" in lines
    assert "max_age: 2s # SIDEGATE_MEMORY__MAX_AGE_FILE" in lines
    assert "listen: 127.0.0.1:7080 # default" in lines


def test_output_of_show_is_a_valid_config_file(tmp_path: Path) -> None:
    config = write_config(tmp_path, render_settings(None, {"SIDEGATE_GATE__HEADER": "X-Token"}))

    assert load(config, {}) == load(None, {"SIDEGATE_GATE__HEADER": "X-Token"})


def test_sidegate_yaml_has_all_settings_with_their_defaults() -> None:
    file = yaml.safe_load((CONFIG / "sidegate.yaml").read_text())
    defaults = Settings(data_dir=Path("/")).model_dump(mode="json")
    defaults["data_dir"] = "~/.local/state/sidegate"

    assert flat(file) == flat(defaults)
    assert load(CONFIG / "sidegate.yaml", {}) == Settings()


def test_sidegate_yaml_describes_all_settings_of_a_provider() -> None:
    comment = (
        (CONFIG / "sidegate.yaml").read_text().partition("\nsso:")[2].partition("providers: [")[0]
    )

    assert [name for name in ProviderSection.model_fields if name not in comment] == []


def flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            result |= flat(value, f"{path}{name}.")
        else:
            result[path + name] = value
    return result


def test_production_yaml_with_secrets_is_valid() -> None:
    load(CONFIG / "production.yaml", SHARED)


def test_committed_schema_is_up_to_date() -> None:
    committed = (CONFIG / "sidegate.schema.json").read_text()

    assert committed == build_schema(), "sidegate config schema > config/sidegate.schema.json"


def test_schema_defaults_are_values_it_accepts() -> None:
    schema = json.loads(build_schema())

    for group in (schema, *schema["$defs"].values()):
        for name, setting in group["properties"].items():
            validator = jsonschema.Draft202012Validator(setting | {"$defs": schema["$defs"]})
            assert "default" not in setting or validator.is_valid(setting["default"]), name


@pytest.mark.parametrize("name", ["sidegate.yaml", "production.yaml"])
def test_schema_accepts_the_shipped_files(name: str) -> None:
    file = yaml.safe_load((CONFIG / name).read_text())

    jsonschema.Draft202012Validator(json.loads(build_schema())).validate(file)


@pytest.mark.parametrize("wrong", [{"gates": {}}, {"gate": {"deadline": "soon"}}, {"gate": 1}])
def test_schema_rejects_what_load_rejects(wrong: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(json.loads(build_schema())).is_valid(wrong)


@pytest.mark.parametrize("mode", ["0660", "660", '"0660"', "0o660"])
def test_socket_mode_is_octal_in_every_notation(mode: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, f"gate: {{socket_mode: {mode}}}")

    if mode == "660":  # a decimal number in YAML, and too large for a mode
        assert load_error(config).startswith("gate.socket_mode: write the mode in octal")
    elif mode == "0o660":  # a text in YAML 1.1
        assert load_error(config).startswith("gate.socket_mode: ")
    else:
        assert load(config, {}).gate.socket_mode == 0o660


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("15m", 900),
        ("0", 0),
        ("0.0001s", 0.0001),
        ("12h", 43200),
        ("30d", 2592000),
        ("1.5h", 5400),
    ],
)
def test_duration_round_trips_through_text(text: str, seconds: float) -> None:
    duration = parse_duration(text)

    assert duration == timedelta(seconds=seconds) == parse_duration(seconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("given", [None, True, "", "s", "1", ".5s", "1e3", "NaN", "٣s", 1e300])
def test_duration_in_another_format_raises_value_error(given: object) -> None:
    if given == "1":
        assert parse_duration(given) == timedelta(seconds=1)
        return
    with pytest.raises(ValueError, match="duration"):
        parse_duration(given)


# --- presets


@pytest.mark.parametrize("preset", Preset)
def test_preset_sets_lifetimes_of_user_types_only(preset: Preset) -> None:
    by_type = load(
        None, {"SIDEGATE_SESSIONS__PRESET": preset.value.upper()}
    ).sessions.lifetimes_by_type()

    people = get_preset_lifetimes(preset)
    assert set(people) == {SessionType.WEB, SessionType.MOBILE, SessionType.SSO}
    for type_, lifetimes in by_type.items():
        expected = people.get(type_, DEFAULT_LIFETIMES[type_])
        assert lifetimes.lifetime == expected.lifetime
        assert lifetimes.idle_timeout == expected.idle_timeout


def test_presets_have_the_timeouts_of_nist_sp_800_63b() -> None:
    web = {preset: get_preset_lifetimes(preset)[SessionType.WEB] for preset in Preset}
    assert {preset: (each.lifetime, each.idle_timeout) for preset, each in web.items()} == {
        Preset.AAL1: (timedelta(days=30), None),
        Preset.AAL2: (timedelta(hours=24), timedelta(hours=1)),
        Preset.AAL3: (timedelta(hours=12), timedelta(minutes=15)),
    }


def test_value_of_a_type_overrides_the_preset(tmp_path: Path) -> None:
    config = write_config(tmp_path, "sessions: {preset: aal3, web: {lifetime: 2h, grace: 5s}}")

    sessions = load(config, {}).sessions

    assert (sessions.web.lifetime, sessions.web.grace) == (timedelta(hours=2), timedelta(seconds=5))
    assert sessions.web.idle_timeout == timedelta(minutes=15)
    assert sessions.mobile.lifetime == timedelta(hours=12)


@pytest.mark.parametrize("wrong", ["aal4", "true", "[aal1]"])
def test_unknown_preset_is_an_error(wrong: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, f"sessions: {{preset: {wrong}}}")
    assert load_error(config).startswith("sessions.preset: ")


# --- sizes and generated secrets


@pytest.mark.parametrize(
    ("given", "size", "text"),
    [
        ("128MiB", 128 * 2**20, "128MiB"),
        ("1 GiB", 2**30, "1GiB"),
        ("2048KiB", 2**21, "2MiB"),
        ("1572864", 1_572_864, "1536KiB"),
        (1_572_865, 1_572_865, "1572865"),
    ],
)
def test_size_round_trips_through_text(given: object, size: int, text: str) -> None:
    assert parse_size(given) == size
    assert format_size(size) == text


@pytest.mark.parametrize("given", [None, True, "", "MiB", "1MB", "1.5GiB", "-1", 1.5, "٣MiB"])
def test_size_in_another_format_raises_value_error(given: object) -> None:
    with pytest.raises(ValueError, match="write a size"):
        parse_size(given)


@pytest.mark.parametrize(("given", "size"), [("1KiB", 1024), ("16KiB", 16_384), ("5000", 5000)])
def test_identity_size_is_within_its_bounds(given: str, size: int) -> None:
    settings = load(None, {"SIDEGATE_GATE__MAX_IDENTITY": given})
    assert settings.gate.max_identity == size


@pytest.mark.parametrize("given", ["1023", "16385", "0", "8MiB"])
def test_identity_size_outside_its_bounds_is_an_error(given: str) -> None:
    error = load_error(SIDEGATE_GATE__MAX_IDENTITY=given)
    assert error.startswith("gate.max_identity: a size must be between 1KiB and 16KiB")


def embedded(folder: Path) -> Settings:
    return load(None, {"SIDEGATE_DATA_DIR": str(folder / "data")})


def test_first_start_creates_private_secret_files_and_later_ones_keep_them(
    tmp_path: Path,
) -> None:
    settings = embedded(tmp_path)

    keys, admin = read_token_keys(settings), read_admin_key(settings)

    assert admin is not None
    assert (read_token_keys(settings), read_admin_key(settings)) == (keys, admin)
    assert admin == (tmp_path / "data/admin.key", (tmp_path / "data/admin.key").read_text().strip())
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert files == {"token.keys": 0o600, "admin.key": 0o600}


def test_keys_in_the_settings_are_used_and_no_file_is_created(tmp_path: Path) -> None:
    settings = load(None, SHARED | {"SIDEGATE_DATA_DIR": str(tmp_path / "data")})

    assert read_token_keys(settings) == (TokenKey.parse(KEY),)
    assert read_admin_key(settings) is None
    assert not (tmp_path / "data").exists()


def test_secret_file_readable_by_others_is_an_error(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    read_token_keys(settings)
    (tmp_path / "data/token.keys").chmod(0o644)

    with pytest.raises(SettingsError, match="chmod 600"):
        read_token_keys(settings)


def test_secret_file_with_other_content_is_an_error_and_is_kept(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/token.keys"
    path.touch(0o600)
    path.write_text("1:something")

    with pytest.raises(SettingsError, match=r"token\.keys: .* a token key's secret must be 43"):
        read_token_keys(settings)
    assert path.read_text() == "1:something"


def test_data_dir_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")

    with pytest.raises(SettingsError, match=r"token\.keys: .*cannot be"):
        read_token_keys(embedded(tmp_path))


def test_data_dir_that_cannot_be_created_is_an_error() -> None:
    settings = load(None, {"SIDEGATE_DATA_DIR": "/proc/sidegate"})

    with pytest.raises(SettingsError, match=r"token\.keys: .*cannot be created"):
        read_token_keys(settings)


def test_only_the_given_environment_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIDEGATE_GATE__REALM", "from the process")

    assert os.environ["SIDEGATE_GATE__REALM"]
    assert load(None, {}).gate.realm == "sidegate"
    assert Settings().gate.realm == "sidegate"
