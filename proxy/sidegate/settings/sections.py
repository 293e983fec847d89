"""All settings with their defaults. config/sidegate.yaml describes each setting."""

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from sidegate.core.address import Address
from sidegate.core.binding import DEFAULT_PREFIX_LENGTHS, BindingPolicy, PrefixLengths, Signal
from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes, Preset, get_preset_lifetimes
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.rules import Rule
from sidegate.core.secure_url import is_secure
from sidegate.core.session_type import SessionType
from sidegate.settings.header_names import check_client_name, check_identity_name
from sidegate.settings.rule_section import RuleSection
from sidegate.settings.section import Nullable, Section
from sidegate.settings.store_urls import DatabaseUrl, RedisUrl
from sidegate.settings.values import (
    Duration,
    ExpandedPath,
    FileMode,
    IdentitySize,
    ListenAddress,
    MemorySize,
    PeerNetwork,
    PositiveDuration,
    TextList,
    Time,
    TokenKeys,
    matching,
    to_lower,
)

PREFIX: Final = "SIDEGATE_"
NESTING: Final = "__"

Reloadable: Final = Field(json_schema_extra={"reloadable": True})
"""Marks a setting, or all settings of a group, that a reload changes; others need a restart."""

_MINUTE: Final = timedelta(minutes=1)


def _millis(number: int) -> timedelta:
    return timedelta(milliseconds=number)


def _seconds(number: int) -> timedelta:
    return timedelta(seconds=number)


def _check_host_names(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]", host, re.ASCII):
            raise ValueError("write hosts without ports, for example localhost, 10.0.0.5 or [::1]")
    return tuple(host.lower() for host in hosts)


HeaderName = Annotated[
    str,
    matching(
        r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", "write a header name of letters, digits and dashes"
    ),
]
IdentityHeaderName = Annotated[HeaderName, AfterValidator(check_identity_name)]
ClientHeaderName = Annotated[HeaderName, AfterValidator(check_client_name)]
OptionalDuration = Annotated[Duration | None, Nullable]
Count = Annotated[int, Field(ge=1, le=100_000_000)]


class TokenSection(Section):
    keys: Annotated[TokenKeys, Reloadable] = ()


class IdentitySection(Section):
    user: IdentityHeaderName = "X-Auth-User"
    session: IdentityHeaderName = "X-Auth-Session"
    type: IdentityHeaderName = "X-Auth-Type"
    scopes: IdentityHeaderName = "X-Auth-Scopes"
    time: IdentityHeaderName = "X-Auth-Time"
    expires: IdentityHeaderName = "X-Auth-Expires"


PublicPath = Annotated[
    str,
    matching(
        r"(?!/ext-authz(?:/|\Z))(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]{1,64}){1,4}",
        "write a path such as /.sidegate, without a slash at its end",
    ),
]


class GateSection(Section):
    listen: ListenAddress = Address("127.0.0.1", 7080)
    socket_mode: FileMode = 0o660
    trusted_peers: Annotated[tuple[PeerNetwork, ...], TextList, Reloadable] = (
        ip_network("127.0.0.0/8"),
        ip_network("::1/128"),
    )
    cookie: Annotated[HeaderName | None, Nullable, Reloadable] = "__Host-session"
    bearer: Annotated[bool, Reloadable] = True
    basic: Annotated[bool, Reloadable] = False
    websocket_protocol: Annotated[bool, Reloadable] = False
    header: Annotated[ClientHeaderName | None, Nullable, Reloadable] = None
    identity: Annotated[IdentitySection, Reloadable] = IdentitySection()
    max_identity: Annotated[IdentitySize, Reloadable] = 4 * 2**10
    public_path: PublicPath = "/.sidegate"
    realm: Annotated[
        str,
        matching(
            r"[ !#-\[\]-~]{1,64}", "write up to 64 ASCII characters, no quotes or backslashes"
        ),
        Reloadable,
    ] = "sidegate"
    deadline: PositiveDuration = _millis(150)
    fast_path: bool = True
    max_connections: Count = 10_000
    max_connections_per_peer: Annotated[Count | None, Nullable] = None
    trusted_hops: Annotated[int, Field(ge=0, le=16), Reloadable] = 0


def _parse_policy(value: object) -> object:
    """Return `off` for False, because YAML reads an unquoted `off` as false."""
    return "off" if value is False else to_lower(value)


PolicyName = Annotated[Literal["off", "log", "deny", "revoke"], BeforeValidator(_parse_policy)]


class BoundHeaderSection(Section):
    name: Annotated[ClientHeaderName | None, Nullable] = None
    policy: PolicyName = "off"

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        if self.name is None and self.policy != "off":
            raise ValueError("set name, or set policy to off")
        return self


class BindingSection(Section):
    ip: PolicyName = "off"
    ipv4_prefix: Annotated[int, Field(ge=1, le=32)] = DEFAULT_PREFIX_LENGTHS.ipv4
    ipv6_prefix: Annotated[int, Field(ge=1, le=128)] = DEFAULT_PREFIX_LENGTHS.ipv6
    user_agent: PolicyName = "off"
    accept_language: PolicyName = "off"
    header: BoundHeaderSection = BoundHeaderSection()

    def policies(self) -> Mapping[Signal, BindingPolicy]:
        return {
            Signal.IP: BindingPolicy(self.ip),
            Signal.USER_AGENT: BindingPolicy(self.user_agent),
            Signal.ACCEPT_LANGUAGE: BindingPolicy(self.accept_language),
            Signal.HEADER: BindingPolicy(self.header.policy),
        }

    def prefix_lengths(self) -> PrefixLengths:
        return PrefixLengths(self.ipv4_prefix, self.ipv6_prefix)


def _require_scopes(scopes: tuple[str, ...]) -> tuple[str, ...]:
    if not scopes:
        raise ValueError("set at least one of read, write and revoke")
    return scopes


class ApiKey(Section):
    """An admin API key: the SHA-256 of its text, the scopes it grants, and when that ends."""

    name: Annotated[
        str, matching(r"[A-Za-z0-9._-]{1,64}", "write up to 64 letters, digits, dots and dashes")
    ]
    sha256: Annotated[
        str, matching(r"[0-9a-fA-F]{64}", "write 64 hex digits"), AfterValidator(str.lower)
    ]
    scopes: Annotated[
        tuple[Literal["read", "write", "revoke"], ...],
        AfterValidator(_require_scopes),
        Field(json_schema_extra={"minItems": 1}),
    ]
    expires_at: Annotated[Time | None, Nullable] = None


def _check_unique_keys(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    if len({key.name for key in keys}) != len(keys):
        raise ValueError("two keys have the same name: the audit trail needs different ones")
    if len({key.sha256 for key in keys}) != len(keys):
        raise ValueError("two names have the same key: make another one with `sidegate key new`")
    return keys


class AdminSection(Section):
    listen: ListenAddress = Address("127.0.0.1", 7081)
    max_connections: Count = 1000
    max_connections_per_peer: Count = 500
    idle_timeout: PositiveDuration = 5 * _MINUTE
    hosts: Annotated[tuple[str, ...], AfterValidator(_check_host_names), TextList, Reloadable] = (
        "localhost",
        "127.0.0.1",
        "[::1]",
    )
    keys: Annotated[tuple[ApiKey, ...], AfterValidator(_check_unique_keys), Reloadable] = ()


def _check_issuer(url: str) -> str:
    if not re.fullmatch(r"https?://[!-\"$->@-~]{1,500}", url, re.ASCII):
        raise ValueError("write it as the provider does, for example https://id.example/realms/a")
    return url


def _check_secure_url(url: str) -> str:
    if not is_secure(url):
        raise ValueError("write an https:// URL; http:// is allowed for this machine only")
    return url


def _check_max_age(duration: timedelta) -> timedelta:
    if duration < _MINUTE:
        raise ValueError("must be at least 1m, the shortest interval of fetching keys")
    return duration


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""All algorithms of JWA with an asymmetric key, so without `none` and the HMACs."""


def _require_algorithms(algorithms: tuple[Algorithm, ...]) -> tuple[Algorithm, ...]:
    if not algorithms:
        raise ValueError("set at least one; the provider's discovery document lists its own")
    return algorithms


class ProviderSection(Section):
    """An identity provider that ends sessions by back-channel logout."""

    name: Annotated[
        str,
        matching(
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
            "write up to 64 letters, digits, dots and dashes; it is part of a URL",
        ),
    ]
    issuer: Annotated[str, AfterValidator(_check_issuer)]
    client_id: Annotated[
        str,
        matching(r"[ -~]{1,256}", "write the id of this client at the provider, in ASCII"),
    ]
    jwks_uri: Annotated[Annotated[str, AfterValidator(_check_secure_url)] | None, Nullable] = None
    jwks_file: Annotated[ExpandedPath | None, Nullable] = None
    jwks_max_age: Annotated[Duration, AfterValidator(_check_max_age)] = timedelta(hours=1)
    algorithms: Annotated[tuple[Algorithm, ...], AfterValidator(_require_algorithms), TextList] = (
        "RS256",
        "PS256",
        "ES256",
        "EdDSA",
    )
    require_typ: bool = True

    @model_validator(mode="after")
    def _has_one_source_of_keys(self) -> Self:
        if self.jwks_uri is not None and self.jwks_file is not None:
            raise ValueError("set jwks_uri or jwks_file, not both")
        if self.jwks_uri is None and self.jwks_file is None and not is_secure(self.issuer):
            raise ValueError("keys are not discovered over http: set jwks_uri or jwks_file")
        return self


def _check_unique_providers(providers: tuple[ProviderSection, ...]) -> tuple[ProviderSection, ...]:
    if len({provider.name for provider in providers}) != len(providers):
        raise ValueError("two providers have the same name, which is part of their URLs")
    return providers


class SsoSection(Section):
    providers: Annotated[tuple[ProviderSection, ...], AfterValidator(_check_unique_providers)] = ()


class OpsSection(Section):
    listen: ListenAddress = Address("127.0.0.1", 7082)
    max_connections: Count = 250
    max_connections_per_peer: Count = 100
    idle_timeout: PositiveDuration = 2 * _MINUTE


class MemorySection(Section):
    max_sessions: Count = 100_000
    max_bytes: MemorySize = 160 * 2**20
    max_age: PositiveDuration = _seconds(5)


class NegativeCacheSection(Section):
    max_digests: Count = 10_000
    max_age: PositiveDuration = _seconds(2)


class StoreSection(Section):
    """The deadline and the circuit breaker of a store."""

    deadline: PositiveDuration = _millis(80)
    breaker_failures: Count = 5
    breaker_probe: PositiveDuration = _millis(250)


class RedisSection(StoreSection):
    deadline: PositiveDuration = _millis(25)
    trust_without_database: Duration = timedelta(hours=1)


class DatabaseSection(StoreSection):
    """The settings that both databases have."""

    max_lookups: Count = 1000


class PostgresSection(DatabaseSection):
    pool_max: Annotated[int, Field(ge=1, le=1000)] = 8
    prepared_statements: bool = True
    listen: bool = True
    listen_url: Annotated[DatabaseUrl | None, Nullable] = None


class SqliteSection(DatabaseSection):
    """The settings of SQLite."""


class LifetimesSection(Section):
    """The lifetimes and the limit of a session type; types differ in their defaults only."""

    lifetime: Duration
    idle_timeout: OptionalDuration
    grace: Duration = DEFAULT_LIFETIMES[SessionType.WEB].grace
    touch_threshold: Duration = DEFAULT_LIFETIMES[SessionType.WEB].touch_threshold
    limit: Annotated[Count | None, Nullable] = None
    at_limit: Annotated[
        Literal["evict_oldest", "evict_idle_longest", "refuse"], BeforeValidator(to_lower)
    ] = "evict_oldest"

    @model_validator(mode="after")
    def _check_lifetimes(self) -> Self:
        self.lifetimes()  # raises ValueError for values out of range
        return self

    def lifetimes(self) -> Lifetimes:
        return Lifetimes(self.lifetime, self.idle_timeout, self.grace, self.touch_threshold)

    def session_limit(self) -> Limit | None:
        return None if self.limit is None else Limit(self.limit, AtLimit(self.at_limit))


class WebLifetimes(LifetimesSection):
    lifetime: Duration = DEFAULT_LIFETIMES[SessionType.WEB].lifetime
    idle_timeout: OptionalDuration = DEFAULT_LIFETIMES[SessionType.WEB].idle_timeout


class MobileLifetimes(LifetimesSection):
    lifetime: Duration = DEFAULT_LIFETIMES[SessionType.MOBILE].lifetime
    idle_timeout: OptionalDuration = DEFAULT_LIFETIMES[SessionType.MOBILE].idle_timeout


class ApiLifetimes(LifetimesSection):
    lifetime: Duration = DEFAULT_LIFETIMES[SessionType.API].lifetime
    idle_timeout: OptionalDuration = DEFAULT_LIFETIMES[SessionType.API].idle_timeout


class ServiceLifetimes(LifetimesSection):
    lifetime: Duration = DEFAULT_LIFETIMES[SessionType.SERVICE].lifetime
    idle_timeout: OptionalDuration = DEFAULT_LIFETIMES[SessionType.SERVICE].idle_timeout


class SsoLifetimes(LifetimesSection):
    lifetime: Duration = DEFAULT_LIFETIMES[SessionType.SSO].lifetime
    idle_timeout: OptionalDuration = DEFAULT_LIFETIMES[SessionType.SSO].idle_timeout


def _overlay(base: Mapping[str, object], value: object) -> object:
    return {**base, **value} if isinstance(value, dict) else value


class SessionsSection(Section):
    preset: Annotated[
        Literal["aal1", "aal2", "aal3"] | None, BeforeValidator(to_lower), Nullable
    ] = None
    web: WebLifetimes = WebLifetimes()
    mobile: MobileLifetimes = MobileLifetimes()
    api: ApiLifetimes = ApiLifetimes()
    service: ServiceLifetimes = ServiceLifetimes()
    sso: SsoLifetimes = SsoLifetimes()

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: object) -> object:
        """Add the preset's values below those of the types, and so above the defaults."""
        if not isinstance(values, dict) or to_lower(values.get("preset")) not in list(Preset):
            return values  # the validation of `preset` reports other values
        presets = {
            type_.value: {"lifetime": each.lifetime, "idle_timeout": each.idle_timeout}
            for type_, each in get_preset_lifetimes(Preset(values["preset"].lower())).items()
        }
        return values | {name: _overlay(presets[name], values.get(name, {})) for name in presets}

    def lifetimes_by_type(self) -> Mapping[SessionType, Lifetimes]:
        return {type_: section.lifetimes() for type_, section in self._sections().items()}

    def limits_by_type(self) -> Mapping[SessionType, Limit]:
        """Return the limits of the types that have one."""
        limits = {type_: section.session_limit() for type_, section in self._sections().items()}
        return {type_: limit for type_, limit in limits.items() if limit is not None}

    def _sections(self) -> dict[SessionType, LifetimesSection]:
        return {
            SessionType.WEB: self.web,
            SessionType.MOBILE: self.mobile,
            SessionType.API: self.api,
            SessionType.SERVICE: self.service,
            SessionType.SSO: self.sso,
        }


class ChangePollerSection(Section):
    interval: PositiveDuration = _millis(500)


class TouchSection(Section):
    interval: PositiveDuration = _seconds(1)
    max_sessions: Count = 100_000


class CleanupSection(Section):
    interval: PositiveDuration = _seconds(60)
    retention: Duration = timedelta(days=7)
    batch: Annotated[int, Field(ge=1, le=10_000)] = 1000


class AuditSection(Section):
    interval: PositiveDuration = _seconds(1)
    retention: PositiveDuration = timedelta(days=365)


class AnalyticsSection(Section):
    interval: PositiveDuration = _seconds(60)


class LogsSection(Section):
    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(to_lower)] = (
        "info"
    )
    format: Annotated[Literal["json", "console"], BeforeValidator(to_lower)] = "json"


class DrainSection(Section):
    delay: Duration = _seconds(2)
    timeout: PositiveDuration = _seconds(10)


class Settings(Section):
    """All settings, validated. Only `runtime` and `cli` use it; other code gets single values.

    `Settings()` is the defaults; `load` reads the sources.
    """

    model_config = ConfigDict(validate_default=True)

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    jobs: bool = True
    data_dir: ExpandedPath = Path("~/.local/state/sidegate")
    database_url: Annotated[DatabaseUrl | None, Nullable] = None
    redis_url: Annotated[RedisUrl | None, Nullable] = None
    token: TokenSection = TokenSection()
    gate: GateSection = GateSection()
    rules: Annotated[tuple[RuleSection, ...], Reloadable] = ()
    binding: Annotated[BindingSection, Reloadable] = BindingSection()
    admin: AdminSection = AdminSection()
    sso: Annotated[SsoSection, Reloadable] = SsoSection()
    ops: OpsSection = OpsSection()
    memory: MemorySection = MemorySection()
    negative_cache: NegativeCacheSection = NegativeCacheSection()
    redis: RedisSection = RedisSection()
    postgres: PostgresSection = PostgresSection()
    sqlite: SqliteSection = SqliteSection()
    sessions: Annotated[SessionsSection, Reloadable] = SessionsSection()
    change_poller: ChangePollerSection = ChangePollerSection()
    touch: TouchSection = TouchSection()
    cleanup: CleanupSection = CleanupSection()
    audit: AuditSection = AuditSection()
    analytics: AnalyticsSection = AnalyticsSection()
    logs: Annotated[LogsSection, Reloadable] = LogsSection()
    drain: Annotated[DrainSection, Reloadable] = DrainSection()

    def access_rules(self) -> tuple[Rule, ...]:
        """Return the access rules; one without a name has its place as its name."""
        return tuple(rule.build(f"rules[{place}]") for place, rule in enumerate(self.rules))
