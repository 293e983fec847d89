"""The Sentinels of a Redis: which server is the primary, and why they do not say."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError

from sidegate.core.store_url import Host
from sidegate.stores.connection_log import ConnectionLog
from sidegate.stores.redis.reasons import RedisFailure, describe_error

_ERRORS: Final = (RedisError, OSError)


class Sentinels:
    """Asks one Sentinel after another; the one that knew the primary is asked first."""

    def __init__(
        self,
        hosts: Iterable[Host],
        *,
        build_pool: Callable[[Host], ConnectionPool],
        log: ConnectionLog,
    ) -> None:
        """`build_pool` returns the connection pool of a Sentinel."""
        self._clients = [(host, Redis(connection_pool=build_pool(host))) for host in hosts]
        self._log = log

    async def discover_master(self, service: str) -> tuple[str, int]:
        """Return host and port of the primary, as redis-py's connection pool asks for it.

        Raise RedisFailure, with what each Sentinel says, if none knows it.
        """
        reasons: dict[Host, str] = {}
        for position, (host, client) in enumerate(tuple(self._clients)):
            try:
                primaries = await client.sentinel_masters()
                assert isinstance(primaries, dict)  # a list only in RESP3
            except _ERRORS as error:
                reasons[host] = describe_error(error)
                self._log.record_failure(str(host), reasons[host])
                continue
            self._log.record_success(str(host))
            primary = primaries.get(service)
            if primary is not None and _is_up(primary):
                self._clients.insert(0, self._clients.pop(position))
                return primary["ip"], primary["port"]
            reasons[host] = f"knows no primary named {service}" if primary is None else "it is down"
        said = "; ".join(f"{host}: {reason}" for host, reason in reasons.items())
        raise RedisFailure(f"no primary from the Sentinels: {said}")

    async def aclose(self) -> None:
        for _, client in self._clients:
            await client.aclose()
            await client.connection_pool.aclose()


def _is_up(primary: dict[str, Any]) -> bool:
    return bool(primary["is_master"] and not primary["is_sdown"] and not primary["is_odown"])
