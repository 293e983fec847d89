"""Every setting there is, with its default. config/sidegate.yaml says why each is as it is."""

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sidegate.core.address import Address
from sidegate.core.binding import DEFAULT_WIDTHS, Policy, Signal, Widths
from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes, Preset, preset_lifetimes
from sidegate.core.limits import AtLimit, Limit
from sidegate.core.secure_url import is_secure
from sidegate.core.session_type import SessionType
from sidegate.settings.values import (
    DatabaseUrl,
    Duration,
    FileMode,
    Folder,
    ListenAddress,
    MemorySize,
    PeerNetwork,
    PositiveDuration,
    RedisUrl,
    TokenKeys,
    Words,
    lower,
    none_spelled,
    spelled,
)

PREFIX: Final = "SIDEGATE_"
NESTING: Final = "__"


_MINUTE: Final = timedelta(minutes=1)


def _millis(number: int) -> timedelta:
    return timedelta(milliseconds=number)


def _seconds(number: int) -> timedelta:
    return timedelta(seconds=number)


def _extra_source(name: str) -> str:
    if name.lower() in ("authorization", "cookie"):
        raise ValueError("this header is a source already (gate.bearer, gate.cookie)")
    return name


def _host_names(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]", host, re.ASCII):
            raise ValueError("write host names without ports, as in localhost, 10.0.0.5 or [::1]")
    return tuple(host.lower() for host in hosts)


HeaderName = Annotated[
    str,
    spelled(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", "write one name of letters, digits and dashes"),
]
ExtraSource = Annotated[HeaderName, AfterValidator(_extra_source)]
OrNone = BeforeValidator(none_spelled)
OptionalDuration = Annotated[Duration | None, OrNone]
Count = Annotated[int, Field(ge=1, le=100_000_000)]


class Section(BaseModel):
    """A group of settings: frozen, knows no others than its own, repeats no input in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TokenSection(Section):
    keys: TokenKeys = ()


class IdentitySection(Section):
    user: HeaderName = "X-Auth-User"
    session: HeaderName = "X-Auth-Session"
    type: HeaderName = "X-Auth-Type"
    scopes: HeaderName = "X-Auth-Scopes"
    time: HeaderName = "X-Auth-Time"
    expires: HeaderName = "X-Auth-Expires"


class GateSection(Section):
    listen: ListenAddress = Address("127.0.0.1", 7080)
    socket_mode: FileMode = 0o660
    trusted_peers: Annotated[tuple[PeerNetwork, ...], Words] = (
        ip_network("127.0.0.0/8"),
        ip_network("::1/128"),
    )
    cookie: Annotated[HeaderName | None, OrNone] = "__Host-session"
    bearer: bool = True
    header: Annotated[Annotated[HeaderName, AfterValidator(_extra_source)] | None, OrNone] = None
    identity: IdentitySection = IdentitySection()
    realm: Annotated[
        str,
        spelled(r"[ !#-\[\]-~]{1,64}", "write up to 64 ASCII characters, no quotes or backslashes"),
    ] = "sidegate"
    deadline: PositiveDuration = _millis(150)
    fast_path: bool = True
    max_connections: Count = 10_000
    trusted_hops: Annotated[int, Field(ge=0, le=16)] = 0


def _policy(given: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if given is False else lower(given)


PolicyName = Annotated[Literal["off", "log", "deny", "revoke"], BeforeValidator(_policy)]


class BoundHeaderSection(Section):
    name: Annotated[ExtraSource | None, OrNone] = None
    policy: PolicyName = "off"

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        if self.name is None and self.policy != "off":
            raise ValueError("name the header, or set the policy to off")
        return self


class BindingSection(Section):
    ip: PolicyName = "off"
    ipv4_prefix: Annotated[int, Field(ge=1, le=32)] = DEFAULT_WIDTHS.ipv4
    ipv6_prefix: Annotated[int, Field(ge=1, le=128)] = DEFAULT_WIDTHS.ipv6
    user_agent: PolicyName = "off"
    accept_language: PolicyName = "off"
    header: BoundHeaderSection = BoundHeaderSection()

    def policies(self) -> Mapping[Signal, Policy]:
        return {
            Signal.IP: Policy(self.ip),
            Signal.USER_AGENT: Policy(self.user_agent),
            Signal.ACCEPT_LANGUAGE: Policy(self.accept_language),
            Signal.HEADER: Policy(self.header.policy),
        }

    def widths(self) -> Widths:
        return Widths(self.ipv4_prefix, self.ipv6_prefix)


def _at_least_one(scopes: tuple[str, ...]) -> tuple[str, ...]:
    if not scopes:
        raise ValueError("name at least one of read, write and revoke")
    return scopes


class ApiKey(Section):
    """An admin API key: whoever shows a text with this SHA-256 may do what the scopes say."""

    name: Annotated[
        str, spelled(r"[A-Za-z0-9._-]{1,64}", "write up to 64 letters, digits, dots and dashes")
    ]
    sha256: Annotated[
        str, spelled(r"[0-9a-fA-F]{64}", "write 64 hex digits"), AfterValidator(str.lower)
    ]
    scopes: Annotated[
        tuple[Literal["read", "write", "revoke"], ...],
        AfterValidator(_at_least_one),
        Field(json_schema_extra={"minItems": 1}),
    ]


def _different_keys(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    if len({key.name for key in keys}) != len(keys):
        raise ValueError("two keys share a name; the audit must tell them apart")
    if len({key.sha256 for key in keys}) != len(keys):
        raise ValueError("two names share a key; make one for each with `sidegate key new`")
    return keys


class AdminSection(Section):
    listen: ListenAddress = Address("127.0.0.1", 7081)
    hosts: Annotated[tuple[str, ...], AfterValidator(_host_names), Words] = (
        "localhost",
        "127.0.0.1",
        "[::1]",
    )
    keys: Annotated[tuple[ApiKey, ...], AfterValidator(_different_keys)] = ()


def _issuer(url: str) -> str:
    if not re.fullmatch(r"https?://[!-\"$->@-~]{1,500}", url, re.ASCII):
        raise ValueError("write it as the provider does, as in https://id.example/realms/main")
    return url


def _secure(url: str) -> str:
    if not is_secure(url):
        raise ValueError("write an https:// URL; http:// leads no further than this machine")
    return url


def _at_least_a_minute(duration: timedelta) -> timedelta:
    if duration < _MINUTE:
        raise ValueError("must be at least 1m: keys are fetched no more often")
    return duration


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""All there are but `none` and those whose key both sides share."""


def _some(algorithms: tuple[Algorithm, ...]) -> tuple[Algorithm, ...]:
    if not algorithms:
        raise ValueError("name at least one; the provider's discovery document lists its own")
    return algorithms


class ProviderSection(Section):
    """An identity provider that tells us when its sessions end."""

    name: Annotated[
        str,
        spelled(
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
            "write up to 64 letters, digits, dots and dashes; it is part of a URL",
        ),
    ]
    issuer: Annotated[str, AfterValidator(_issuer)]
    client_id: Annotated[
        str,
        spelled(r"[ -~]{1,256}", "write what the provider calls us, up to 256 ASCII characters"),
    ]
    jwks_uri: Annotated[Annotated[str, AfterValidator(_secure)] | None, OrNone] = None
    jwks_file: Annotated[Folder | None, OrNone] = None
    jwks_max_age: Annotated[Duration, AfterValidator(_at_least_a_minute)] = timedelta(hours=1)
    algorithms: Annotated[tuple[Algorithm, ...], AfterValidator(_some), Words] = (
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
            raise ValueError("keys cannot be discovered by plain http: set jwks_uri or jwks_file")
        return self


def _different_providers(providers: tuple[ProviderSection, ...]) -> tuple[ProviderSection, ...]:
    if len({provider.name for provider in providers}) != len(providers):
        raise ValueError("two providers share a name; each has a URL of its own")
    return providers


class SsoSection(Section):
    providers: Annotated[tuple[ProviderSection, ...], AfterValidator(_different_providers)] = ()


class OpsSection(Section):
    listen: ListenAddress = Address("127.0.0.1", 7082)


class MemorySection(Section):
    max_sessions: Count = 100_000
    max_bytes: MemorySize = 160 * 2**20
    max_age: PositiveDuration = _seconds(5)


class NegativeCacheSection(Section):
    max_digests: Count = 10_000
    max_age: PositiveDuration = _seconds(2)


class StoreSection(Section):
    """How long a store may take, and when it is not asked any more."""

    deadline: PositiveDuration = _millis(80)
    breaker_failures: Count = 5
    breaker_probe: PositiveDuration = _millis(250)


class RedisSection(StoreSection):
    deadline: PositiveDuration = _millis(25)


class DurableSection(StoreSection):
    """How many look-ups a store that is the truth lets wait."""

    max_lookups: Count = 1000


class PostgresSection(DurableSection):
    pool_max: Annotated[int, Field(ge=1, le=1000)] = 8
    prepared_statements: bool = True
    listen: bool = True
    listen_url: Annotated[DatabaseUrl | None, OrNone] = None


class SqliteSection(DurableSection):
    """SQLite has nothing to set but what every durable store has."""


class LifetimesSection(Section):
    """One session type's deadlines and limit; the five types differ in their defaults only."""

    lifetime: Duration
    idle_timeout: OptionalDuration
    grace: Duration = DEFAULT_LIFETIMES[SessionType.WEB].grace
    touch_threshold: Duration = DEFAULT_LIFETIMES[SessionType.WEB].touch_threshold
    limit: Annotated[Count | None, OrNone] = None
    at_limit: Annotated[
        Literal["evict_oldest", "evict_idle_longest", "refuse"], BeforeValidator(lower)
    ] = "evict_oldest"

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        self.lifetimes()  # its ValueErrors are the rules
        return self

    def lifetimes(self) -> Lifetimes:
        return Lifetimes(self.lifetime, self.idle_timeout, self.grace, self.touch_threshold)

    def live_limit(self) -> Limit | None:
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


def _over(begun: Mapping[str, object], said: object) -> object:
    return {**begun, **said} if isinstance(said, dict) else said


class SessionsSection(Section):
    preset: Annotated[Literal["aal1", "aal2", "aal3"] | None, BeforeValidator(lower), OrNone] = None
    web: WebLifetimes = WebLifetimes()
    mobile: MobileLifetimes = MobileLifetimes()
    api: ApiLifetimes = ApiLifetimes()
    service: ServiceLifetimes = ServiceLifetimes()
    sso: SsoLifetimes = SsoLifetimes()

    @model_validator(mode="before")
    @classmethod
    def _begin_with_the_preset(cls, given: object) -> object:
        """What is said of a type goes before the preset, which goes before the defaults."""
        if not isinstance(given, dict) or lower(given.get("preset")) not in list(Preset):
            return given  # what is wrong with it is said elsewhere
        begun = {
            type_.value: {"lifetime": these.lifetime, "idle_timeout": these.idle_timeout}
            for type_, these in preset_lifetimes(Preset(given["preset"].lower())).items()
        }
        return given | {name: _over(begun[name], given.get(name, {})) for name in begun}

    def by_type(self) -> Mapping[SessionType, Lifetimes]:
        return {type_: section.lifetimes() for type_, section in self._sections().items()}

    def limits(self) -> Mapping[SessionType, Limit]:
        """Return the limits of the types that have one."""
        limits = {type_: section.live_limit() for type_, section in self._sections().items()}
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
    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = "info"
    format: Annotated[Literal["json", "console"], BeforeValidator(lower)] = "json"


class DrainSection(Section):
    delay: Duration = _seconds(2)
    timeout: PositiveDuration = _seconds(10)


class Settings(Section):
    """All settings, checked. Only the roof holds it: whoever is below gets the values it needs.

    `Settings()` is the defaults; `load` reads the sources.
    """

    model_config = ConfigDict(validate_default=True)

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    jobs: bool = True
    data_dir: Folder = Path("~/.local/state/sidegate")
    database_url: Annotated[DatabaseUrl | None, OrNone] = None
    redis_url: Annotated[RedisUrl | None, OrNone] = None
    token: TokenSection = TokenSection()
    gate: GateSection = GateSection()
    binding: BindingSection = BindingSection()
    admin: AdminSection = AdminSection()
    sso: SsoSection = SsoSection()
    ops: OpsSection = OpsSection()
    memory: MemorySection = MemorySection()
    negative_cache: NegativeCacheSection = NegativeCacheSection()
    redis: RedisSection = RedisSection()
    postgres: PostgresSection = PostgresSection()
    sqlite: SqliteSection = SqliteSection()
    sessions: SessionsSection = SessionsSection()
    change_poller: ChangePollerSection = ChangePollerSection()
    touch: TouchSection = TouchSection()
    cleanup: CleanupSection = CleanupSection()
    audit: AuditSection = AuditSection()
    analytics: AnalyticsSection = AnalyticsSection()
    logs: LogsSection = LogsSection()
    drain: DrainSection = DrainSection()
