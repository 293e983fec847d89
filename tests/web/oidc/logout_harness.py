"""Back-channel logout in tests: an admin listener with an identity provider."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sidegate.core.clock import Clock
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.web.oidc.keys import JwksSource, ProviderKeys
from sidegate.web.oidc.routes import LogoutRoutes
from sidegate.web.oidc.sources import url_source
from sidegate.web.oidc.token import LogoutTokenReader
from tests.support.clock import FakeClock
from tests.web.admin.admin_listener import AdminHarness, Handler, Reply, open_admin
from tests.web.oidc.identity_provider import IdentityProvider

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
PATH = "/oidc/backchannel-logout/idp"


def build_token_reader(
    idp: IdentityProvider,
    clock: Clock,
    *,
    algorithms: Sequence[str] = ALGORITHMS,
    require_typ: bool = True,
    source: JwksSource | None = None,
) -> LogoutTokenReader:
    keys = ProviderKeys(
        source or url_source(idp.jwks_uri),
        provider="idp",
        algorithms=algorithms,
        max_age=timedelta(hours=1),
        clock=clock,
    )
    return LogoutTokenReader(
        idp.provider, keys, algorithms=algorithms, require_typ=require_typ, clock=clock
    )


@dataclass
class LogoutHarness:
    """An admin listener that accepts logout tokens of `idp`, and the reported outcomes."""

    admin: AdminHarness
    idp: IdentityProvider
    outcomes: list[tuple[str, str]] = field(default_factory=list)

    async def create_session(self, **of_provider: Any) -> str:
        """Create an SSO session of the provider; return its id."""
        fields = {"type": "sso", "provider": "idp", "provider_session_id": "s1"} | of_provider
        _, session = await self.admin.create(**fields)
        return str(session["id"])

    async def is_active(self, session_id: str) -> bool:
        reply = await self.admin.call("GET", f"/v1/sessions/{session_id}")
        return bool(reply.body["state"] == "active")

    async def post(self, logout_token: str, *, path: str = PATH, **options: Any) -> Reply:
        """Send a logout token as a provider does, without an API key."""
        return await self.admin.call(
            "POST", path, key=None, data={"logout_token": logout_token}, **options
        )


@asynccontextmanager
async def open_logout_harness(
    directory: Path, idp: IdentityProvider, *, request_timeout: float = 5.0, **options: Any
) -> AsyncIterator[LogoutHarness]:
    """Open an admin listener that accepts logout tokens of `idp`.

    `options` are passed to `build_token_reader`.
    """
    outcomes: list[tuple[str, str]] = []

    def build_handler(backchannel_logout: BackchannelLogout, clock: FakeClock) -> Handler:
        readers = {"idp": build_token_reader(idp, clock, **options)}
        routes = LogoutRoutes(
            readers,
            backchannel_logout,
            on_outcome=lambda name, outcome: outcomes.append((name, outcome)),
        )
        return routes.receive

    async with open_admin(
        directory, request_timeout=request_timeout, logout=build_handler
    ) as admin:
        yield LogoutHarness(admin, idp, outcomes)
