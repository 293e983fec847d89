"""Settings: where they come from, what is refused, and that no secret is ever told."""

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
from sidegate.core.binding import Policy, Signal
from sidegate.core.errors import SettingsError
from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes, Preset, preset_lifetimes
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.session_type import SessionType
from sidegate.core.token import TokenKey
from sidegate.settings import Settings, first_admin_key, load, token_keys
from sidegate.settings.sections import ProviderSection
from sidegate.settings.show import schema, shown
from sidegate.settings.sources import leaves, variable_of
from sidegate.settings.values import format_duration, format_size, read_duration, read_size

CONFIG = Path(__file__).parents[2] / "config"
KEY = TokenKey(1, bytes(32)).formatted()
SHARED = {"SIDEGATE_DATABASE_URL": "postgresql://db/sidegate", "SIDEGATE_TOKEN__KEYS": KEY}


def written(folder: Path, text: str) -> Path:
    path = folder / "sidegate.yaml"
    path.write_text(text)
    return path


def mistakes(config: Path | None = None, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(config, environ)
    return caught.value.errors


def the_mistake(config: Path | None = None, **environ: str) -> str:
    (mistake,) = mistakes(config, **environ)
    return mistake


# --- where they come from


def test_without_any_source_the_defaults_hold() -> None:
    settings = load(None, {})

    assert settings == Settings()
    assert settings.gate.listen == Address("127.0.0.1", 7080)
    assert settings.gate.deadline == timedelta(milliseconds=150)
    assert settings.sessions.by_type() == DEFAULT_LIFETIMES


def test_a_variable_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    config = written(tmp_path, "gate: {realm: file, cookie: file}\nlogs: {level: debug}")

    settings = load(config, {"SIDEGATE_GATE__REALM": "variable"})

    assert (settings.gate.realm, settings.gate.cookie) == ("variable", "file")
    assert settings.gate.bearer is True
    assert settings.logs.level == "debug"


def test_a_file_variable_gives_what_its_file_holds_without_the_last_line_break(
    tmp_path: Path,
) -> None:
    (tmp_path / "url").write_text("postgresql://u:p@db/sidegate\n")
    (tmp_path / "keys").write_text(f"{TokenKey(2, bytes(32)).formatted()}\r\n{KEY}\r\n")

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
    "spelled", ['["10.0.0.0/8", "::1"]', "10.0.0.0/8,::1", "10.0.0.0/8, ::1", "10.0.0.0/8\n::1"]
)
def test_a_list_of_texts_is_json_or_has_commas_or_lines(spelled: str) -> None:
    settings = load(None, {"SIDEGATE_GATE__TRUSTED_PEERS": spelled})

    assert settings.gate.trusted_peers == (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def test_objects_are_json_and_single_variables_lie_over_them() -> None:
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


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    assert load(None, {"SIDEGATE_REDIS_URL": "", "SIDEGATE_DATABASE_URL_FILE": ""}) == Settings()


def test_none_can_be_said_in_a_variable() -> None:
    settings = load(
        None, {"SIDEGATE_GATE__COOKIE": "none", "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "null"}
    )

    assert settings.gate.cookie is None
    assert settings.sessions.web.idle_timeout is None


def test_the_data_directory_lies_where_xdg_says(tmp_path: Path) -> None:
    assert load(None, {"XDG_STATE_HOME": str(tmp_path)}).data_dir == tmp_path / "sidegate"
    assert load(None, {"XDG_STATE_HOME": "relative"}).data_dir == (
        Path.home() / ".local/state/sidegate"
    )
    assert load(None, {"XDG_STATE_HOME": "/x", "SIDEGATE_DATA_DIR": "/y"}).data_dir == Path("/y")


def test_the_variables_an_orchestrator_sets_for_a_service_of_our_name_are_not_ours() -> None:
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


def test_no_setting_has_a_name_an_orchestrator_would_take() -> None:
    environ = {variable_of(path): "{" for path, _ in leaves(Settings)}

    told = "\n".join(mistakes(None, **environ))

    # Each of these variables is read, or it could not be wrong; these two take any text.
    untold = [p for p, _ in leaves(Settings) if variable_of(p) not in told]
    assert untold == [("data_dir",), ("gate", "realm")]


def test_an_api_key_of_one_scope_and_a_service_lifetime_stand_in_the_file(tmp_path: Path) -> None:
    config = written(tmp_path, "sessions: {service: {lifetime: 90d, idle_timeout: 1d}}")

    lifetimes = load(config, {}).sessions.by_type()

    assert lifetimes[SessionType.SERVICE] == Lifetimes(timedelta(days=90), timedelta(days=1))
    assert lifetimes[SessionType.WEB] == DEFAULT_LIFETIMES[SessionType.WEB]


# --- what is refused


def test_a_type_has_a_limit_when_one_is_set(tmp_path: Path) -> None:
    config = written(tmp_path, "sessions: {web: {limit: 5}, api: {limit: 1, at_limit: refuse}}")

    settings = load(config, {"SIDEGATE_SESSIONS__SSO__LIMIT": "2"})

    assert settings.sessions.limits() == {
        SessionType.WEB: Limit(5, AtLimit.EVICT_OLDEST),
        SessionType.API: Limit(1, AtLimit.REFUSE),
        SessionType.SSO: Limit(2, AtLimit.EVICT_OLDEST),
    }


def test_every_mistake_is_told_at_once_with_its_path_and_source(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        "gate: {deadline: soon, bearrer: true}\nadmin: {keys: [{name: x}]}\nredis_url: http://x",
    )

    told = mistakes(
        config,
        SIDEGATE_OPS__LISTEN="7082",
        SIDEGATE_GATE__TRUSTED_PEERS="0.0.0.0/0",
        SIDEGATE_FOO="1",
        SIDEGATE_SESSIONS__WEB__GRACE="10m",
    )

    starts = [mistake.partition(": ")[0] for mistake in told]
    assert sorted(starts) == [
        "SIDEGATE_FOO",
        "admin.keys[0].scopes",
        "admin.keys[0].sha256",
        "gate.bearrer",
        "gate.deadline",
        "gate.trusted_peers[0]",
        "ops.listen",
        "redis_url",
        "redis_url",  # misspelled, and alone
        "sessions.web",
    ]
    by_start = dict(zip(starts, told, strict=True))
    assert by_start["gate.bearrer"].endswith(f"did you mean bearer? (from {config})")
    assert by_start["ops.listen"].endswith("(from SIDEGATE_OPS__LISTEN)")
    assert "between 0 and 300 seconds" in by_start["sessions.web"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SIDEGATE_GATE__LISTENS", "SIDEGATE_GATE__LISTEN"),
        ("SIDEGATE_GATE_LISTEN", "SIDEGATE_GATE__LISTEN"),
        ("SIDEGATE_DATABASE_URLS_FILE", "SIDEGATE_DATABASE_URL"),
        ("SIDEGATE_DATABASE_URL__X", "SIDEGATE_DATABASE_URL"),
        ("SIDEGATE_gate__listen", "SIDEGATE_GATE__LISTEN"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert the_mistake(None, **{name: "x"}) == f"{name}: no such setting; did you mean {meant}?"


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
def test_an_unknown_key_is_refused_at_any_depth(text: str, path: str, tmp_path: Path) -> None:
    assert the_mistake(written(tmp_path, text)).startswith(f"{path}: no such setting")


def test_a_value_and_a_file_for_it_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "realm").write_text("x")

    told = the_mistake(
        None, SIDEGATE_GATE__REALM="x", SIDEGATE_GATE__REALM_FILE=str(tmp_path / "realm")
    )

    assert told == "gate.realm: set SIDEGATE_GATE__REALM or SIDEGATE_GATE__REALM_FILE, not both"


def test_a_secret_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert "No such file" in the_mistake(None, SIDEGATE_GATE__REALM_FILE=str(tmp_path / "none"))
    assert "UTF-8" in the_mistake(None, SIDEGATE_GATE__REALM_FILE=str(tmp_path / "binary"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gate: {", "is not YAML in line 1"),
        ("- gate", "holds no settings"),
        ("just text", "holds no settings"),
        ("logs: {level: info}\nlogs: {level: debug}", "the key in line 2 stands twice"),
        ("gate: {realm: a, realm: b}", "the key in line 1 stands twice"),
        ("1: x", "the key in line 1 is not a text"),
        ("gate: &a {realm: !!python/name:os.system x}", "is not YAML"),
        ("gate:\n  realm: 2024-02-30", "is not YAML in line 2, column 10"),
        ("gate: {realm: 0b_}", "is not YAML in line 1"),
        ("gate: {realm: !!int abc}", "is not YAML in line 1"),
        ("gate: {realm: !!bool perhaps}", "is not YAML in line 1"),
        ("gate: {realm: !!timestamp noon}", "is not YAML in line 1"),
        ("gate: {realm: 1" + 300 * ":00" + ".5}", "is not YAML in line 1"),
        ("gate: " + 2000 * "[", "is nested too deeply"),
    ],
)
def test_a_file_that_says_nothing_clear_is_refused(text: str, told: str, tmp_path: Path) -> None:
    config = written(tmp_path, text)

    assert the_mistake(config).startswith(f"{config}: ")
    assert told in the_mistake(config)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert "cannot be read: No such file" in the_mistake(tmp_path / "none.yaml")
    assert "is not UTF-8" in the_mistake(tmp_path / "binary")


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing\n"), {}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATE__LISTEN", "localhost"),
        ("GATE__LISTEN", "127.0.0.1:99999"),
        ("GATE__LISTEN", "unix:relative.sock"),
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
        ("SESSIONS__WEB__LIFETIME", "0"),
        ("SESSIONS__WEB__LIMIT", "0"),
        ("SESSIONS__WEB__LIMIT", "few"),
        ("SESSIONS__WEB__AT_LIMIT", "evict"),
    ],
)
def test_what_cannot_be_meant_is_refused(variable: str, value: str) -> None:
    told = the_mistake(None, **{f"SIDEGATE_{variable}": value})

    assert told.startswith(variable.lower().replace("__", ".")[:8])
    assert f"(from SIDEGATE_{variable})" in told


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
def test_a_database_url_of_another_form_is_refused(url: str) -> None:
    told = the_mistake(None, SIDEGATE_DATABASE_URL=url, SIDEGATE_TOKEN__KEYS=KEY)

    assert told.startswith("database_url: write postgresql://")


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
def test_every_form_of_a_redis_url_is_taken(url: str) -> None:
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
def test_a_redis_url_of_another_form_is_refused(url: str) -> None:
    told = the_mistake(None, **SHARED, SIDEGATE_REDIS_URL=url)

    assert told.startswith("redis_url: write redis://")


def test_redis_alone_is_refused_for_it_is_not_the_truth() -> None:
    assert "Redis alone is not the truth" in the_mistake(None, SIDEGATE_REDIS_URL="redis://cache")


def test_there_is_nothing_to_hear_of_without_a_database() -> None:
    told = the_mistake(None, SIDEGATE_POSTGRES__LISTEN_URL="postgresql://db/sidegate")

    assert told.startswith("postgres.listen_url: there is nothing to hear of")


def test_the_way_to_the_bell_is_a_secret() -> None:
    url = "postgresql://listener:hush@db:5432/sidegate"
    settings = load(None, SHARED | {"SIDEGATE_POSTGRES__LISTEN_URL": url})

    assert settings.postgres.listen_url is not None
    assert settings.postgres.listen_url.get_secret_value() == url
    assert "hush" not in repr(settings)
    assert "hush" not in settings.model_dump_json()


def test_a_database_is_refused_without_the_token_keys_all_instances_share() -> None:
    told = the_mistake(None, SIDEGATE_DATABASE_URL="postgresql://db/sidegate")

    assert told.startswith("token.keys: is required with database_url")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:7000", "127.0.0.1:7000"),
        ("0.0.0.0:7000", "127.0.0.1:7000"),
        ("[::]:7000", "10.0.0.1:7000"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_two_listeners_on_one_address_are_refused(one: str, other: str) -> None:
    told = the_mistake(None, SIDEGATE_GATE__LISTEN=one, SIDEGATE_ADMIN__LISTEN=other)

    assert told.startswith("admin.listen: listens where gate.listen does")


def test_two_listeners_may_both_take_any_port_that_is_free() -> None:
    load(None, {"SIDEGATE_GATE__LISTEN": "[::1]:0", "SIDEGATE_ADMIN__LISTEN": "[::1]:0"})


def test_a_gate_that_reads_no_credential_is_refused() -> None:
    none = {"SIDEGATE_GATE__BEARER": "false", "SIDEGATE_GATE__COOKIE": "none"}

    assert the_mistake(None, **none).startswith("gate: no credential is read")
    load(None, none | {"SIDEGATE_GATE__HEADER": "X-Token"})


def test_two_admin_keys_of_one_name_or_one_hash_are_refused() -> None:
    def keys(*pairs: tuple[str, str]) -> str:
        return json.dumps([{"name": n, "sha256": h * 64, "scopes": ["read"]} for n, h in pairs])

    one_name = the_mistake(None, SIDEGATE_ADMIN__KEYS=keys(("a", "0"), ("a", "1")))
    one_hash = the_mistake(None, SIDEGATE_ADMIN__KEYS=keys(("a", "0"), ("b", "0")))

    assert "share a name" in one_name
    assert "share a key" in one_hash


IDP: dict[str, Any] = {"name": "idp", "issuer": "https://id.example/r", "client_id": "shop"}


def providers(*changes: dict[str, Any]) -> str:
    """Return so many providers, each a right one but for its changes."""
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
def test_a_provider_that_can_be_listened_to_is_taken(changes: dict[str, Any]) -> None:
    (provider,) = load(None, {"SIDEGATE_SSO__PROVIDERS": providers(changes)}).sso.providers

    assert provider.issuer == (IDP | changes)["issuer"]


def test_a_provider_says_little_and_the_rest_is_safe() -> None:
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
def test_a_provider_that_cannot_be_meant_is_refused(changes: dict[str, Any], path: str) -> None:
    told = the_mistake(None, SIDEGATE_SSO__PROVIDERS=providers(changes))

    assert told.startswith(f"sso.providers[0]{path}: ")
    assert told.endswith("(from SIDEGATE_SSO__PROVIDERS)")


def test_every_mistake_of_every_provider_is_told_at_once() -> None:
    wrong = providers({"issuer": "x", "algorithms": ["HS256"]}, {"name": "/"})

    told = mistakes(None, SIDEGATE_SSO__PROVIDERS=wrong)

    assert [each.partition(": ")[0] for each in told] == [
        "sso.providers[0].issuer",
        "sso.providers[0].algorithms[0]",
        "sso.providers[1].name",
    ]


def test_two_providers_of_one_name_are_refused() -> None:
    told = the_mistake(None, SIDEGATE_SSO__PROVIDERS=providers({"name": "a"}, {"name": "a"}))

    assert "share a name" in told


def test_providers_are_refused_where_the_door_they_call_at_stays_shut() -> None:
    environ = SHARED | {"SIDEGATE_SSO__PROVIDERS": providers({})}
    key = [{"name": "ci", "sha256": "0" * 64, "scopes": ["read"]}]

    assert the_mistake(None, **environ).startswith("sso.providers: the admin door")
    load(None, environ | {"SIDEGATE_ADMIN__KEYS": json.dumps(key)})


@pytest.mark.parametrize("policy", ["off", "log", "deny", "revoke", '"deny"', "Revoke", "OFF"])
def test_a_policy_is_written_as_it_is_spoken(policy: str, tmp_path: Path) -> None:
    config = written(
        tmp_path, f"binding: {{ip: {policy}, header: {{name: X-Id, policy: {policy}}}}}"
    )

    policies = load(config, {}).binding.policies()

    meant = Policy(policy.strip('"').lower())
    assert policies == {
        Signal.IP: meant,
        Signal.USER_AGENT: Policy.OFF,
        Signal.ACCEPT_LANGUAGE: Policy.OFF,
        Signal.HEADER: meant,
    }


def test_a_policy_can_be_said_in_a_variable() -> None:
    environ = {"SIDEGATE_BINDING__IP": "off", "SIDEGATE_BINDING__USER_AGENT": "deny"}

    policies = load(None, environ).binding.policies()

    assert (policies[Signal.IP], policies[Signal.USER_AGENT]) == (Policy.OFF, Policy.DENY)


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
def test_a_binding_that_means_nothing_is_refused(text: str, path: str, tmp_path: Path) -> None:
    assert the_mistake(written(tmp_path, text)).startswith(f"{path}: ")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(None, {}).gate.realm = "other"


# --- what is kept to itself


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


def test_no_mistake_repeats_what_was_given() -> None:
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
def test_a_secret_in_the_wrong_place_of_a_file_is_not_repeated(text: str, tmp_path: Path) -> None:
    assert SECRET not in "\n".join(mistakes(written(tmp_path, text)))


def test_neither_repr_nor_show_tells_a_secret() -> None:
    environ = {
        "SIDEGATE_DATABASE_URL": f"postgresql://u:{SECRET}@db:5432/x?password={SECRET}",
        "SIDEGATE_REDIS_URL": f"redis+sentinel://:{SECRET}@h1,h2/mymaster/0",
        "SIDEGATE_TOKEN__KEYS": f"7:{SECRET}",
    }

    settings = load(None, environ)
    text = shown(None, environ)

    for told in (repr(settings), str(settings), text, settings.model_dump_json()):
        assert SECRET not in told
    assert "database_url: postgresql://***@db:5432/x?***" in text
    assert "redis_url: redis+sentinel://***@h1,h2/mymaster/0" in text
    assert "keys: ['7:***']" in text


# --- show, the file of all settings, the schema


def test_show_tells_where_each_value_came_from(tmp_path: Path) -> None:
    config = written(tmp_path, "gate: {realm: mine}\nlocal: {max_age: 1s}")
    (tmp_path / "age").write_text("2s")

    text = shown(config, {"SIDEGATE_MEMORY__MAX_AGE_FILE": str(tmp_path / "age")})

    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert f"realm: mine # {config}" in lines
    assert "max_age: 2s # SIDEGATE_MEMORY__MAX_AGE_FILE" in lines
    assert "listen: 127.0.0.1:7080 # default" in lines


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    config = written(tmp_path, shown(None, {"SIDEGATE_GATE__HEADER": "X-Token"}))

    assert load(config, {}) == load(None, {"SIDEGATE_GATE__HEADER": "X-Token"})


def test_the_file_of_all_settings_has_every_one_with_its_default() -> None:
    file = yaml.safe_load((CONFIG / "sidegate.yaml").read_text())
    defaults = Settings(data_dir=Path("/")).model_dump(mode="json")
    defaults["data_dir"] = "~/.local/state/sidegate"

    assert flat(file) == flat(defaults)
    assert load(CONFIG / "sidegate.yaml", {}) == Settings()


def test_the_file_of_all_settings_tells_what_can_be_said_of_a_provider() -> None:
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


def test_the_example_for_production_is_right_once_it_has_its_secrets() -> None:
    load(CONFIG / "production.yaml", SHARED)


def test_the_committed_schema_is_the_codes() -> None:
    committed = (CONFIG / "sidegate.schema.json").read_text()

    assert committed == schema(), "sidegate config schema > config/sidegate.schema.json"


@pytest.mark.parametrize("name", ["sidegate.yaml", "production.yaml"])
def test_the_schema_takes_our_files(name: str) -> None:
    file = yaml.safe_load((CONFIG / name).read_text())

    jsonschema.Draft202012Validator(json.loads(schema())).validate(file)


@pytest.mark.parametrize("wrong", [{"gates": {}}, {"gate": {"deadline": "soon"}}, {"gate": 1}])
def test_the_schema_refuses_what_the_code_refuses(wrong: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(json.loads(schema())).is_valid(wrong)


@pytest.mark.parametrize("mode", ["0660", "660", '"0660"', "0o660"])
def test_a_mode_is_octal_however_the_file_spells_it(mode: str, tmp_path: Path) -> None:
    config = written(tmp_path, f"gate: {{socket_mode: {mode}}}")

    if mode == "660":  # a decimal number to YAML, and beyond any mode
        assert the_mistake(config).startswith("gate.socket_mode: write the mode in octal")
    elif mode == "0o660":  # a text to YAML 1.1
        assert the_mistake(config).startswith("gate.socket_mode: ")
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
def test_durations_are_read_and_spelled(text: str, seconds: float) -> None:
    duration = read_duration(text)

    assert duration == timedelta(seconds=seconds) == read_duration(seconds)
    assert read_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("given", [None, True, "", "s", "1", ".5s", "1e3", "NaN", "٣s", 1e300])
def test_a_duration_is_plain_seconds_or_has_a_unit(given: object) -> None:
    if given == "1":
        assert read_duration(given) == timedelta(seconds=1)
        return
    with pytest.raises(ValueError, match="duration"):
        read_duration(given)


# --- presets


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_sets_the_deadlines_of_people_and_leaves_programs_alone(preset: Preset) -> None:
    by_type = load(None, {"SIDEGATE_SESSIONS__PRESET": preset.value.upper()}).sessions.by_type()

    people = preset_lifetimes(preset)
    assert set(people) == {SessionType.WEB, SessionType.MOBILE, SessionType.SSO}
    for type_, lifetimes in by_type.items():
        expected = people.get(type_, DEFAULT_LIFETIMES[type_])
        assert lifetimes.lifetime == expected.lifetime
        assert lifetimes.idle_timeout == expected.idle_timeout


def test_the_presets_are_those_of_the_standard() -> None:
    web = {preset: preset_lifetimes(preset)[SessionType.WEB] for preset in Preset}
    assert {preset: (each.lifetime, each.idle_timeout) for preset, each in web.items()} == {
        Preset.AAL1: (timedelta(days=30), None),
        Preset.AAL2: (timedelta(hours=24), timedelta(hours=1)),
        Preset.AAL3: (timedelta(hours=12), timedelta(minutes=15)),
    }


def test_what_is_said_of_a_type_goes_before_the_preset(tmp_path: Path) -> None:
    config = written(tmp_path, "sessions: {preset: aal3, web: {lifetime: 2h, grace: 5s}}")

    sessions = load(config, {}).sessions

    assert (sessions.web.lifetime, sessions.web.grace) == (timedelta(hours=2), timedelta(seconds=5))
    assert sessions.web.idle_timeout == timedelta(minutes=15)
    assert sessions.mobile.lifetime == timedelta(hours=12)


@pytest.mark.parametrize("wrong", ["aal4", "true", "[aal1]"])
def test_a_preset_that_is_none_is_told(wrong: str, tmp_path: Path) -> None:
    config = written(tmp_path, f"sessions: {{preset: {wrong}}}")
    assert the_mistake(config).startswith("sessions.preset: ")


# --- what the embedded default makes for itself


@pytest.mark.parametrize(
    ("given", "size", "spelled"),
    [
        ("128MiB", 128 * 2**20, "128MiB"),
        ("1 GiB", 2**30, "1GiB"),
        ("2048KiB", 2**21, "2MiB"),
        ("1572864", 1_572_864, "1536KiB"),
        (1_572_865, 1_572_865, "1572865"),
    ],
)
def test_sizes_are_read_and_spelled(given: object, size: int, spelled: str) -> None:
    assert read_size(given) == size
    assert format_size(size) == spelled


@pytest.mark.parametrize("given", [None, True, "", "MiB", "1MB", "1.5GiB", "-1", 1.5, "٣MiB"])
def test_a_size_is_plain_bytes_or_has_a_binary_unit(given: object) -> None:
    with pytest.raises(ValueError, match="write a size"):
        read_size(given)


def embedded(folder: Path) -> Settings:
    return load(None, {"SIDEGATE_DATA_DIR": str(folder / "data")})


def test_the_first_start_makes_secrets_for_us_alone_and_the_next_ones_keep_them(
    tmp_path: Path,
) -> None:
    settings = embedded(tmp_path)

    keys, admin = token_keys(settings), first_admin_key(settings)

    assert admin is not None
    assert (token_keys(settings), first_admin_key(settings)) == (keys, admin)
    assert admin == (tmp_path / "data/admin.key", (tmp_path / "data/admin.key").read_text().strip())
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert files == {"token.keys": 0o600, "admin.key": 0o600}


def test_keys_of_the_settings_are_taken_and_no_file_is_made(tmp_path: Path) -> None:
    settings = load(None, SHARED | {"SIDEGATE_DATA_DIR": str(tmp_path / "data")})

    assert token_keys(settings) == (TokenKey.parse(KEY),)
    assert first_admin_key(settings) is None
    assert not (tmp_path / "data").exists()


def test_a_secret_file_everybody_can_read_is_refused(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    token_keys(settings)
    (tmp_path / "data/token.keys").chmod(0o644)

    with pytest.raises(SettingsError, match="chmod 600"):
        token_keys(settings)


def test_a_secret_file_with_something_else_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/token.keys"
    path.touch(0o600)
    path.write_text("1:something")

    with pytest.raises(SettingsError, match=r"token\.keys: .* a token key's secret is 43"):
        token_keys(settings)
    assert path.read_text() == "1:something"


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")

    with pytest.raises(SettingsError, match=r"token\.keys: .*cannot be"):
        token_keys(embedded(tmp_path))


def test_a_data_directory_in_an_impossible_place_is_told() -> None:
    settings = load(None, {"SIDEGATE_DATA_DIR": "/proc/sidegate"})

    with pytest.raises(SettingsError, match=r"token\.keys: .*cannot be made"):
        token_keys(settings)


def test_the_operators_environment_is_not_read_behind_our_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIDEGATE_GATE__REALM", "from the process")

    assert os.environ["SIDEGATE_GATE__REALM"]
    assert load(None, {}).gate.realm == "sidegate"
    assert Settings().gate.realm == "sidegate"
