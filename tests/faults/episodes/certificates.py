"""An episode in which the stores have TLS: a certificate expires, then the CA is another one."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tests.faults.context import FaultContext, failed_lookups, run_in_thread
from tests.faults.gateway import Upstream
from tests.faults.history import now
from tests.faults.rules import Violation
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.authority import Authority, Certificate
from tests.support.processes import temporary_directory
from tests.support.tls_proxy import TlsProxy

_HOLD_TIME: Final = 8.0
_EXPIRED: Final = timedelta(hours=-1)

# Seconds within which an instance has connected again, without a restart.
_RECOVERY_TIME: Final = 5.0
_POLL_INTERVAL: Final = 0.1

# Seconds after which a gateway uses a restarted instance again.
_RESTART_INTERVAL: Final = 1.0

_FAILED: Final = "store connection failed"
_RESTORED: Final = "store connection restored"


@dataclass
class _Store:
    """One store with TLS, and the plain connections behind it. `name` is that in events."""

    name: str
    tls: TlsProxy
    proxy: TcpProxy

    def present(self, certificate: Certificate) -> None:
        """Present another certificate, for which every connection is opened again."""
        self.tls.use(certificate)
        self.proxy.reset_connections()


@dataclass
class _Stores:
    """Both stores. `trusted` is the file of the CAs that the instances trust."""

    redis: _Store
    postgres: _Store
    authority: Authority
    trusted: Path

    def urls(self) -> Mapping[str, str]:
        redis = f"127.0.0.1:{self.redis.tls.port}/0?ssl_ca_certs={self.trusted}"
        postgres = f"127.0.0.1:{self.postgres.tls.port}/postgres?sslrootcert={self.trusted}"
        return {
            "SIDEGATE_REDIS_URL": f"rediss://{redis}",
            "SIDEGATE_DATABASE_URL": f"postgresql://postgres@{postgres}&sslmode=verify-full",
        }

    def trust(self, *authorities: Authority) -> None:
        """Replace the file of trusted CAs, as a tool that distributes them does."""
        new = self.trusted.with_suffix(".new")
        new.write_bytes(b"".join(each.ca_file.read_bytes() for each in authorities))
        new.replace(self.trusted)


async def replace_certificates(context: FaultContext) -> None:
    """Let the certificate of each store expire; then change the CA, at first without a warning."""
    async with _stores_with_tls(context) as stores:
        context.mark_started()
        for store in (stores.redis, stores.postgres):
            async with _outage(context, store, reason="expired"):
                store.present(stores.authority.issue(store.name, valid_for=_EXPIRED))
                await context.wait(_HOLD_TIME)
                store.present(stores.authority.issue(store.name))
        other = Authority(stores.trusted.parent, "other-ca")
        async with _outage(context, stores.redis, reason="certificate"):
            stores.redis.present(other.issue("redis"))
            await context.wait(_HOLD_TIME)
            stores.trust(stores.authority, other)
        await _change_trusted_ca(context, stores.postgres, other.issue("postgres"))


async def _change_trusted_ca(
    context: FaultContext, store: _Store, certificate: Certificate
) -> None:
    """Present a certificate of a CA that the instances trust already: nothing fails."""
    events = _Events(context)
    store.present(certificate)
    await context.wait(_HOLD_TIME)
    for upstream in context.load.gateway.upstreams:
        if any(events.find(upstream, _FAILED, store.name)):
            _violate(context, f"{upstream.name} refused a certificate of a CA that it trusts")


@asynccontextmanager
async def _outage(context: FaultContext, store: _Store, *, reason: str) -> AsyncIterator[None]:
    """Expect that each instance tells why it has no connection, and that it has one again soon.

    The block makes the certificate of the store unacceptable, and acceptable again.
    """
    events = _Events(context)
    async with context.expect_change(
        f"no lookup failed at {store.name}", failed_lookups(store.name)
    ):
        yield
    for upstream in context.load.gateway.upstreams:
        reasons = [str(each["reason"]) for each in events.find(upstream, _FAILED, store.name)]
        if not any(reason in each for each in reasons):
            _violate(context, f"{upstream.name} does not tell that {reason!r}, but {reasons}")
    await _expect_restored(context, events, store)


async def _expect_restored(context: FaultContext, events: "_Events", store: _Store) -> None:
    """Report a violation for instances that have no connection again in time."""
    deadline = now() + _RECOVERY_TIME
    waiting = events.without(_RESTORED, store.name)
    while waiting and now() < deadline:
        await asyncio.sleep(_POLL_INTERVAL)
        waiting = events.without(_RESTORED, store.name)
    if waiting:
        _violate(context, f"{waiting} had no connection to {store.name} in time")


class _Events:
    """The log events of the instances from now on."""

    def __init__(self, context: FaultContext) -> None:
        self._upstreams = context.load.gateway.upstreams
        self._sizes = {each.name: len(each.sidegate.server.log) for each in self._upstreams}

    def find(self, upstream: Upstream, event: str, store: str) -> Iterator[Mapping[str, Any]]:
        """Yield the events of one instance about a store."""
        for line in upstream.sidegate.server.log[self._sizes[upstream.name] :].splitlines():
            with suppress(ValueError):  # a line that is being written
                fields = json.loads(line)
                if (fields["event"], fields.get("store")) == (event, store):
                    yield fields

    def without(self, event: str, store: str) -> list[str]:
        """Return the names of the instances that have not logged this event."""
        return [each.name for each in self._upstreams if not any(self.find(each, event, store))]


@asynccontextmanager
async def _stores_with_tls(context: FaultContext) -> AsyncIterator[_Stores]:
    """Put TLS in front of both stores, and let the instances use it during the block."""
    with temporary_directory() as directory:
        authority = Authority(directory)
        trusted = directory / "trusted.pem"
        shutil.copy(authority.ca_file, trusted)
        async with (
            TlsProxy(context.redis_proxy.port, authority.issue("redis")) as redis,
            TlsProxy(
                context.postgres_proxy.port, authority.issue("postgres"), is_postgres=True
            ) as postgres,
        ):
            stores = _Stores(
                _Store("redis", redis, context.redis_proxy),
                _Store("postgres", postgres, context.postgres_proxy),
                authority,
                trusted,
            )
            before = _environments(context)
            await _restart(
                context, {name: {**each, **stores.urls()} for name, each in before.items()}
            )
            try:
                yield stores
            finally:
                await _restart(context, before)


def _environments(context: FaultContext) -> Mapping[str, Mapping[str, str]]:
    return {
        upstream.name: upstream.sidegate.server.child.environment
        for upstream in context.load.gateway.upstreams
    }


async def _restart(context: FaultContext, environments: Mapping[str, Mapping[str, str]]) -> None:
    """Restart one instance after the other, each with another environment."""
    for upstream in context.load.gateway.upstreams:
        child = upstream.sidegate.server.child
        async with context.excuse_instance(upstream):
            await run_in_thread(child.stop)
            child.environment = environments[upstream.name]
            await run_in_thread(child.start)
        await asyncio.sleep(_RESTART_INTERVAL)


def _violate(context: FaultContext, message: str) -> None:
    context.violations.append(Violation("I12", message, now()))
