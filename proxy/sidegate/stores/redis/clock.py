"""The clock of a Redis server, and the difference of the database's clock, which is kept there.

The key contains the server ID, as that of the pending revocations does, and is on the same server:
after a restart or a failover the difference is unknown until a server keeps it again.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sidegate.stores.redis.connection import RedisClient
from sidegate.stores.redis.pending_revocations import KEY_NAME

# Seconds. While no server runs, Redis' clock may drift or be set, and nothing corrects the
# difference. So it expires after a day.
_LIFETIME: Final = 86_400

# A difference in microseconds: at most 300 years, which no calculation with it overflows.
_DIFFERENCE: Final = re.compile(rb"-?[0-9]{1,16}")
# Seconds or microseconds of TIME.
_NUMBER: Final = re.compile(rb"[0-9]{1,11}")


class RedisClock:
    """Implements ReferenceClock in Redis."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def read(self) -> tuple[datetime, timedelta | None]:
        # MGET, not GET: a key of another type is unknown, and will be overwritten.
        [(seconds, microseconds), [difference]] = await self._client.run(
            KEY_NAME,
            lambda key: [("TIME",), ("MGET", _build_key(key))],
            is_valid_reply=_is_time_or_values,
        )
        time = datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(microseconds))
        return time, _decode(difference)

    async def keep(self, difference: timedelta) -> None:
        value = difference // timedelta(microseconds=1)
        await self._client.run(
            KEY_NAME,
            lambda key: [("SET", _build_key(key), value, "EX", _LIFETIME)],
            is_valid_reply=lambda _, reply: reply == b"OK",
        )


def _build_key(pending_key: str) -> str:
    return f"{pending_key}:clock"


def _decode(value: bytes | None) -> timedelta | None:
    """Return the difference; None: there is none, or `keep` did not write it."""
    if value is None or not _DIFFERENCE.fullmatch(value):
        return None
    return timedelta(microseconds=int(value))


def _is_time_or_values(command: Sequence[Any], reply: Any) -> bool:
    if not isinstance(reply, list):
        return False
    if command[0] == "TIME":
        return len(reply) == 2 and all(map(_is_number, reply))
    return len(reply) == 1 and (reply[0] is None or isinstance(reply[0], bytes))


def _is_number(value: Any) -> bool:
    return isinstance(value, bytes) and _NUMBER.fullmatch(value) is not None
