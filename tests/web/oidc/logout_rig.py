"""Back-channel logout in a test: a provider, the admin door, and sessions of the provider's."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sidegate.core.clock import Clock
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.web.oidc.keys import ProviderKeys, Source
from sidegate.web.oidc.routes import LogoutRoutes
from sidegate.web.oidc.sources import from_url
from sidegate.web.oidc.token import LogoutTokens
from tests.support.clock import FakeClock
from tests.web.admin.admin_listener import Door, Handler, Reply, admin_door
from tests.web.oidc.identity_provider import IdentityProvider

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
PATH = "/oidc/backchannel-logout/idp"


def tokens_of(
    idp: IdentityProvider,
    clock: Clock,
    *,
    algorithms: Sequence[str] = ALGORITHMS,
    require_typ: bool = True,
    source: Source | None = None,
) -> LogoutTokens:
    keys = ProviderKeys(
        source or from_url(idp.jwks_uri),
        provider="idp",
        algorithms=algorithms,
        max_age=timedelta(hours=1),
        clock=clock,
    )
    return LogoutTokens(
        idp.provider, keys, algorithms=algorithms, require_typ=require_typ, clock=clock
    )


@dataclass
class Rig:
    """A door that listens to `idp`, and what was counted."""

    door: Door
    idp: IdentityProvider
    counted: list[tuple[str, str]] = field(default_factory=list)

    async def begin(self, **of_provider: Any) -> str:
        """Begin an SSO session of the provider; return its id."""
        fields = {"type": "sso", "provider": "idp", "provider_session_id": "s1"} | of_provider
        _, session = await self.door.create(**fields)
        return str(session["id"])

    async def lives(self, session_id: str) -> bool:
        shown = await self.door.call("GET", f"/v1/sessions/{session_id}")
        return bool(shown.body["state"] == "active")

    async def post(self, logout_token: str, *, path: str = PATH, **about: Any) -> Reply:
        """Send a logout token as a provider does: as a stranger."""
        return await self.door.call(
            "POST", path, key=None, data={"logout_token": logout_token}, **about
        )


@asynccontextmanager
async def logout_rig(
    directory: Path, idp: IdentityProvider, *, patience: float = 5.0, **how: Any
) -> AsyncIterator[Rig]:
    """Open a door that listens to `idp`; `how` goes to `tokens_of`."""
    counted: list[tuple[str, str]] = []

    def listener(logouts: BackchannelLogout, clock: FakeClock) -> Handler:
        providers = {"idp": tokens_of(idp, clock, **how)}
        routes = LogoutRoutes(
            providers, logouts, counted=lambda name, outcome: counted.append((name, outcome))
        )
        return routes.receive

    async with admin_door(directory, patience=patience, logout=listener) as door:
        yield Rig(door, idp, counted)
