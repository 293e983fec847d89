"""Pending revocations in Redis: one hash, whose key contains the server ID.

A restart or a failover changes the server ID, so what an old snapshot brings back is not read.
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
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session import SessionId
from sidegate.core.session_type import SessionType
from sidegate.stores.redis.connection import STORE_NAME, RedisClient

CHANNEL: Final = "sidegate:v1:pending"
KEY_NAME: Final = "pending"

# Revocations that one command reads or writes.
_BATCH_SIZE: Final = 100


class RedisPendingRevocations:
    """A PendingRevocationStore in Redis."""

    def __init__(self, client: RedisClient, *, on_unreadable: Callable[[str], None]) -> None:
        """`on_unreadable` receives the store's name, once for each unreadable record."""
        self._client = client
        self._on_unreadable = on_unreadable
        self._unreadable: set[str] = set()  # IDs that were reported

    async def put(self, revocations: Sequence[PendingRevocation]) -> None:
        if not revocations:
            return
        arguments = [argument for each in revocations for argument in (each.id, encode(each))]
        await self._client.run(
            KEY_NAME,
            lambda key: (("HSET", key, *batch) for batch in _split(arguments, 2 * _BATCH_SIZE)),
            is_valid_reply=_is_integer,
        )
        with suppress(StoreUnavailable):  # the instances poll twice a second
            await self._client.publish(CHANNEL, [b""])

    async def compare(self, known: set[str]) -> tuple[list[PendingRevocation], set[str]]:
        [stored] = await self._client.run(
            KEY_NAME, lambda key: [("HKEYS", key)], is_valid_reply=_are_ids
        )
        ids = {id_.decode("ascii", "replace") for id_ in stored}
        self._unreadable &= ids
        missing = sorted(ids - known - self._unreadable)
        return [each async for each in self._read_records(missing)], known - ids

    async def remove(self, revocation: PendingRevocation) -> None:
        await self._client.run(
            KEY_NAME, lambda key: [("HDEL", key, revocation.id)], is_valid_reply=_is_integer
        )

    async def _read_records(self, ids: Sequence[str]) -> AsyncIterator[PendingRevocation]:
        replies = await self._client.run(
            KEY_NAME,
            lambda key: (("HMGET", key, *batch) for batch in _split(ids, _BATCH_SIZE)),
            is_valid_reply=_are_records,
        )
        for id_, record in zip(ids, chain.from_iterable(replies), strict=True):
            if record is None:  # removed meanwhile
                continue
            try:
                yield decode(id_, record)
            except UnreadableRecord:
                self._unreadable.add(id_)
                self._on_unreadable(STORE_NAME)


def _is_integer(_: Sequence[Any], reply: Any) -> bool:
    return isinstance(reply, int)


def _are_ids(_: Sequence[Any], reply: Any) -> bool:
    return isinstance(reply, list) and all(isinstance(id_, bytes) for id_ in reply)


def _are_records(command: Sequence[Any], reply: Any) -> bool:
    _, _, *ids = command
    return (
        isinstance(reply, list)
        and len(reply) == len(ids)
        and all(record is None or isinstance(record, bytes) for record in reply)
    )


def encode(revocation: PendingRevocation) -> bytes:
    """Return the record of a pending revocation, without its ID."""
    condition = {
        field.name: getattr(revocation.condition, field.name)
        for field in fields(Condition)
        if getattr(revocation.condition, field.name) is not None
    }
    document = {
        "condition": condition,
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
    """Return the revocation of a record. Raise UnreadableRecord if `encode` did not write it."""
    try:
        document = json.loads(record)
        return PendingRevocation(
            id_,
            _parse_condition(document["condition"]),
            at=_parse_timestamp(document["at"]),
            by=Actor(str(document["by"]), document["source"]),
            reason=str(document["reason"]),
        )
    except _MALFORMED as error:
        raise UnreadableRecord(type(error).__name__) from None


def _parse_condition(members: Mapping[str, Any]) -> Condition:
    parsed = {name: _PARSERS[name](value) for name, value in members.items()}
    return Condition(**parsed)


def _parse_timestamp(text: str) -> datetime:
    timestamp = datetime.fromisoformat(text)
    if timestamp.tzinfo is None:
        raise ValueError("timestamp without a time zone")
    return timestamp


_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "user_id": str,
    "session_id": SessionId,
    "except_id": SessionId,
    "type": SessionType,
    "scope": str,
    "created_before": _parse_timestamp,
}
"""The members of a decidable condition, with their parsers."""


def _split(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
