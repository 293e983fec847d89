"""The identity providers of the settings, each with where its keys are, ready to be listened to."""

from collections.abc import Iterable

from sidegate.core.clock import Clock
from sidegate.core.logout import Provider
from sidegate.observability.metrics import Metrics
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.settings.sections import ProviderSection
from sidegate.web.oidc.keys import ProviderKeys, Source
from sidegate.web.oidc.routes import LogoutRoutes
from sidegate.web.oidc.sources import by_discovery, from_file, from_url
from sidegate.web.oidc.token import LogoutTokens


def logout_routes(
    providers: Iterable[ProviderSection], logouts: BackchannelLogout, metrics: Metrics, clock: Clock
) -> LogoutRoutes:
    """Return the door of back-channel logout. No key is fetched before the first logout."""
    tokens = {section.name: _tokens(section, clock) for section in providers}
    return LogoutRoutes(tokens, logouts, counted=metrics.logout)


def _tokens(section: ProviderSection, clock: Clock) -> LogoutTokens:
    keys = ProviderKeys(
        _source(section),
        provider=section.name,
        algorithms=section.algorithms,
        max_age=section.jwks_max_age,
        clock=clock,
    )
    return LogoutTokens(
        Provider(section.name, section.issuer, section.client_id),
        keys,
        algorithms=section.algorithms,
        require_typ=section.require_typ,
        clock=clock,
    )


def _source(section: ProviderSection) -> Source:
    if section.jwks_file is not None:
        return from_file(section.jwks_file)
    if section.jwks_uri is not None:
        return from_url(section.jwks_uri)
    return by_discovery(section.issuer)
