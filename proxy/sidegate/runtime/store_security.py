"""The warning at start about passwords that are sent to stores without a verified connection."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from sidegate.core.client_tls import ClientTls, Verify
from sidegate.core.postgres_url import parse_postgres_url
from sidegate.core.redis_url import parse_redis_url
from sidegate.core.store_url import Host
from sidegate.settings import Settings

_log: Final = logging.getLogger("sidegate")


def warn_about_insecure_stores(settings: Settings) -> None:
    """Log one event for each URL whose password leaves this machine unprotected."""
    for setting, reason, hosts in find_insecure_stores(settings):
        _log.warning(
            "store connection insecure",
            extra={"setting": setting, "hosts": ", ".join(map(str, hosts)), "reason": reason},
        )


def find_insecure_stores(settings: Settings) -> Iterator[tuple[str, str, list[Host]]]:
    """Yield the setting, what is wrong with the connections, and the hosts that they lead to."""
    for setting, url in (
        ("database_url", settings.database_url),
        ("postgres.listen_url", settings.postgres.listen_url),
    ):
        if url is not None:
            postgres = parse_postgres_url(url.get_secret_value())
            if postgres.password is not None:
                yield from _find(setting, postgres.hosts, get_tls=postgres.get_tls)
    if settings.redis_url is not None:
        redis = parse_redis_url(settings.redis_url.get_secret_value())
        if redis.password is not None or redis.sentinel_password is not None:
            yield from _find("redis_url", redis.hosts, get_tls=lambda _: redis.tls)


def _find(
    setting: str, hosts: tuple[Host, ...], *, get_tls: Callable[[Host], ClientTls | None]
) -> Iterator[tuple[str, str, list[Host]]]:
    remote = {host: get_tls(host) for host in hosts if not host.is_local}
    plain = [host for host, tls in remote.items() if tls is None]
    if plain:
        yield setting, "the password is sent in plain text", plain
    unverified = [host for host, tls in remote.items() if tls and tls.verify is Verify.NONE]
    if unverified:
        yield setting, "the certificate is not verified", unverified
