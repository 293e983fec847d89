"""Pending revocations in Redis: one hash, under a key of the server's present life.

A restart or a failover begins another life, so what an old snapshot brings back is nobody's.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from itertools import chain
from typing import Any, Final

from sidegate.core.actor import Actor
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.pending import PendingRevocation
from sidegate.core.session import SessionId
from sidegate.core.session_type import SessionType
from sidegate.stores.redis.connection import NAME, RedisClient

CHANNEL: Final = "sidegate:v1:pending"
_NAME: Final = "pending"

# So many are written, or read, by one command.
_AT_ONCE: Final = 100


class RedisPendingRevocations:
    """A PendingShelf."""

    def __init__(self, server: RedisClient, *, on_unreadable: Callable[[str], None]) -> None:
        """`on_unreadable` is told the store's name for each record that could not be read."""
        self._server = server
        self._on_unreadable = on_unreadable
        self._unreadable: set[str] = set()  # told once

    async def put(self, revocations: Sequence[PendingRevocation]) -> None:
        if not revocations:
            return
        words = [word for each in revocations for word in (each.id, encode(each))]
        await self._server.run(
            _NAME,
            lambda key: (("HSET", key, *some) for some in _slices(words, 2 * _AT_ONCE)),
            fits=_is_a_number,
        )
        with suppress(StoreUnavailable):  # they look twice a second
            await self._server.publish(CHANNEL, [b""])

    async def compare(self, known: set[str]) -> tuple[list[PendingRevocation], set[str]]:
        [kept] = await self._server.run(_NAME, lambda key: [("HKEYS", key)], fits=_are_ids)
        ids = {id_.decode("ascii", "replace") for id_ in kept}
        self._unreadable &= ids
        wanted = sorted(ids - known - self._unreadable)
        return [each async for each in self._records(wanted)], known - ids

    async def remove(self, revocation: PendingRevocation) -> None:
        await self._server.run(_NAME, lambda key: [("HDEL", key, revocation.id)], fits=_is_a_number)

    async def _records(self, ids: Sequence[str]) -> AsyncIterator[PendingRevocation]:
        replies = await self._server.run(
            _NAME,
            lambda key: (("HMGET", key, *some) for some in _slices(ids, _AT_ONCE)),
            fits=_are_records,
        )
        for id_, record in zip(ids, chain.from_iterable(replies), strict=True):
            if record is None:  # written down meanwhile
                continue
            try:
                yield decode(id_, record)
            except UnreadableRecord:
                self._unreadable.add(id_)
                self._on_unreadable(NAME)


def _is_a_number(_: Sequence[Any], reply: Any) -> bool:
    return isinstance(reply, int)


def _are_ids(_: Sequence[Any], reply: Any) -> bool:
    return isinstance(reply, list) and all(isinstance(id_, bytes) for id_ in reply)


def _are_records(command: Sequence[Any], reply: Any) -> bool:
    _, _, *asked = command
    return (
        isinstance(reply, list)
        and len(reply) == len(asked)
        and all(record is None or isinstance(record, bytes) for record in reply)
    )


def encode(revocation: PendingRevocation) -> bytes:
    """Return the record of a pending revocation, without its id."""
    given = {
        field.name: getattr(revocation.condition, field.name)
        for field in fields(Condition)
        if getattr(revocation.condition, field.name) is not None
    }
    document = {
        "condition": given,
        "at": revocation.at,
        "by": revocation.by.name,
        "source": revocation.by.source,
        "reason": revocation.reason,
    }
    return json.dumps(document, default=datetime.isoformat).encode()


_MALFORMED: Final = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def decode(id_: str, record: bytes) -> PendingRevocation:
    """Return the revocation of a record. UnreadableRecord: it is not one that `encode` wrote."""
    try:
        document = json.loads(record)
        return PendingRevocation(
            id_,
            _condition(document["condition"]),
            at=_moment(document["at"]),
            by=Actor(str(document["by"]), document["source"]),
            reason=str(document["reason"]),
        )
    except _MALFORMED as error:
        raise UnreadableRecord(type(error).__name__) from None


def _condition(given: Mapping[str, Any]) -> Condition:
    read = {name: _READ[name](value) for name, value in given.items()}
    return Condition(**read)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "user_id": str,
    "session_id": SessionId,
    "except_id": SessionId,
    "type": SessionType,
    "scope": str,
    "created_before": _moment,
}
"""What a decidable condition may say, and how it is read."""


def _slices(words: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (words[start : start + size] for start in range(0, len(words), size))
