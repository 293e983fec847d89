"""Build the back-channel logout endpoint from the identity providers of the settings."""

from collections.abc import Iterable

from sidegate.core.clock import Clock
from sidegate.core.logout import Provider
from sidegate.observability.metrics import Metrics
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.settings.sections import ProviderSection
from sidegate.web.oidc.keys import JwksSource, ProviderKeys
from sidegate.web.oidc.routes import LogoutRoutes
from sidegate.web.oidc.sources import discovery_source, file_source, url_source
from sidegate.web.oidc.token import LogoutTokenReader


def build_logout_routes(
    providers: Iterable[ProviderSection],
    logouts: BackchannelLogout,
    *,
    metrics: Metrics,
    clock: Clock,
) -> LogoutRoutes:
    """Return the endpoint of back-channel logout. No key is fetched before the first logout."""
    tokens = {section.name: _build_tokens(section, clock) for section in providers}
    return LogoutRoutes(tokens, logouts, on_outcome=metrics.count_logout)


def _build_tokens(section: ProviderSection, clock: Clock) -> LogoutTokenReader:
    keys = ProviderKeys(
        _build_source(section),
        provider=section.name,
        algorithms=section.algorithms,
        max_age=section.jwks_max_age,
        clock=clock,
    )
    return LogoutTokenReader(
        Provider(section.name, section.issuer, section.client_id),
        keys,
        algorithms=section.algorithms,
        require_typ=section.require_typ,
        clock=clock,
    )


def _build_source(section: ProviderSection) -> JwksSource:
    if section.jwks_file is not None:
        return file_source(section.jwks_file)
    if section.jwks_uri is not None:
        return url_source(section.jwks_uri)
    return discovery_source(section.issuer)
