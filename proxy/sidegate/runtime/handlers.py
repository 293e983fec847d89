"""Build the request handlers of the gate and the admin API from the settings."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sidegate.core.clock import SystemClock
from sidegate.core.rules import RuleTable
from sidegate.runtime.container import Container
from sidegate.runtime.rules_in_force import read_identity_names
from sidegate.services.rules import Rules
from sidegate.settings import Settings, read_admin_key
from sidegate.web.admin.app import build_admin_app
from sidegate.web.admin.auth import ApiKey, ApiKeys, Scope
from sidegate.web.gate.app import build_handlers
from sidegate.web.gate.own_session import SessionActions
from sidegate.web.gate.rule_checks import AccessRules
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.server.handler import RequestHandler
from sidegate.web.server.listener import Application
from sidegate.web.server.trusted_peers import TrustedPeers

if TYPE_CHECKING:
    from sidegate.web.oidc.routes import LogoutRoutes

_log: Final = logging.getLogger("sidegate")


def build_gate(
    settings: Settings, container: Container, *, rules: Rules
) -> tuple[Sequence[RequestHandler], TrustedPeers]:
    """Return the request handlers of the gate, and the peers whose requests they answer."""
    handlers = build_handlers(
        container.validator,
        _build_policy(settings, rules),
        events=container.metrics,
        clock=container.clock,
        on_allowed=container.activity.on_allowed,
        binding=container.binding,
        rules=_build_access_rules(settings, container),
        public_path=settings.gate.public_path,
        actions=SessionActions(
            container.rotation,
            container.sessions,
            rules=container.rules,
            clock=container.clock,
            binding=container.binding,
        ),
    )
    on_refused = container.metrics.count_untrusted_peer
    return handlers, TrustedPeers(settings.gate.trusted_peers, on_refused=on_refused)


def build_admin_application(
    settings: Settings, container: Container, *, rules: Rules
) -> Application | None:
    """Return the admin API, or None if there is no API key that could open it."""
    keys = _build_api_keys(settings)
    if not keys:
        return None
    logout = _build_logout_routes(settings, container)
    return build_admin_app(
        container.sessions,
        container.rotation,
        locks=container.locks,
        validator=container.validator,
        audit=container.audit,
        analytics=container.analytics,
        keys=ApiKeys(keys, now=container.clock.now),
        hosts=settings.admin.hosts,
        lifetimes=rules.lifetimes,
        cookie=settings.gate.cookie,
        cursor_key=rules.ring.derive_key(b"page cursors"),
        clock=container.clock,
        on_request=container.metrics.count_admin_request,
        logout=None if logout is None else logout.receive,
    )


def _build_access_rules(settings: Settings, container: Container) -> AccessRules | None:
    """Return the access rules, or None if there are none."""
    if not settings.rules:
        return None
    table = RuleTable(settings.access_rules())
    return AccessRules(table, container.metrics, container.tenants)


def _build_policy(settings: Settings, rules: Rules) -> GatewayPolicy:
    section = settings.gate
    sources = CredentialSources(
        bearer=section.bearer,
        cookie=None if section.cookie is None else section.cookie.encode("ascii"),
        header=None if section.header is None else section.header.lower().encode("ascii"),
        basic=section.basic,
        websocket_protocol=section.websocket_protocol,
    )
    return GatewayPolicy(
        sources=sources,
        identity=read_identity_names(settings),
        realm=section.realm,
        signals=_build_signal_sources(settings, rules),
    )


def _build_signal_sources(settings: Settings, rules: Rules) -> SignalSources:
    header = settings.binding.header.name
    return SignalSources(
        enabled=rules.watched_signals,
        header=None if header is None else header.lower().encode("ascii"),
        trusted_hops=settings.gate.trusted_hops,
    )


def _build_logout_routes(settings: Settings, container: Container) -> "LogoutRoutes | None":
    """Return the endpoint of back-channel logout. None without providers: PyJWT is not loaded."""
    if not settings.sso.providers:
        return None
    from sidegate.runtime.oidc_providers import build_logout_routes

    return build_logout_routes(
        settings.sso.providers,
        container.backchannel_logout,
        metrics=container.metrics,
        clock=SystemClock(),
    )


def _build_api_keys(settings: Settings) -> list[ApiKey]:
    keys = [
        ApiKey(
            key.name,
            key.sha256,
            frozenset(Scope(scope) for scope in key.scopes),
            expires_at=key.expires_at,
        )
        for key in settings.admin.keys
    ]
    first = read_admin_key(settings)
    if first is not None:
        path, text = first
        _log.info("admin key read from file", extra={"path": str(path)})
        keys.append(ApiKey.from_text("first", text, scopes=Scope))
    return keys
