"""Search logs, metrics, Redis and the database for tokens (I11)."""

import asyncio
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import redis as vendor

from tests.faults.deployment import connect_as_superuser
from tests.faults.gateway import Upstream
from tests.faults.history import now
from tests.faults.population import ClientToken
from tests.faults.resources import fetch_metrics
from tests.faults.rules import Violation
from tests.support.processes import Server

# Any token, issued or not. Longer than a digest, which may contain the prefix by chance.
_TOKEN: Final = re.compile(rb"sg[a-z]_[A-Za-z0-9_-]{40,}")

# Of a token's 42 bytes the first is the key number, 32 are random, the rest is the tag.
_RANDOM: Final = slice(1, 33)

# Other encodings: runs of these characters, at least as long as the secret.
_BASE64: Final = re.compile(rb"[A-Za-z0-9_-]{56,}")
_HEX: Final = re.compile(rb"[0-9a-f]{64,}")
_TABLES: Final = (
    "SELECT oid::regclass::text AS name FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)
_ANYTHING: Final = re.compile(rb"(?s).{32,}")


async def find_leaks(
    upstreams: Iterable[Upstream], redis: Server, postgres: Server, issued: Iterable[ClientToken]
) -> list[Violation]:
    """Return a violation for each place that holds a token, in any encoding, without the token."""
    secrets = await asyncio.to_thread(Secrets, issued)
    return [
        Violation("I11", f"{place} holds a token", now())
        async for place, text in _read_texts(upstreams, redis, postgres)
        if await asyncio.to_thread(secrets.occur_in, text)
    ]


class Secrets:
    """The issued tokens in all encodings that are searched for."""

    def __init__(self, issued: Iterable[ClientToken]) -> None:
        bodies = {token.text[4:].encode("ascii") for token in issued}
        random = {urlsafe_b64decode(body)[_RANDOM] for body in bodies}
        self._encodings = (
            (_BASE64, 56, bodies),
            (_HEX, 64, {secret.hex().encode("ascii") for secret in random}),
            (_ANYTHING, 32, random),
        )

    def occur_in(self, text: bytes) -> bool:
        """Return whether the text contains one of them, or anything that looks like a token."""
        return _TOKEN.search(text) is not None or any(
            run[0][place : place + length] in secrets
            for runs, length, secrets in self._encodings
            for run in runs.finditer(text)
            for place in range(len(run[0]) - length + 1)
        )


async def _read_texts(
    upstreams: Iterable[Upstream], redis: Server, postgres: Server
) -> AsyncIterator[tuple[str, bytes]]:
    for upstream in upstreams:
        yield f"the log of {upstream.name}", upstream.sidegate.server.log.encode()
        yield f"a metric of {upstream.name}", (await fetch_metrics(upstream) or "").encode()
    yield "Redis", await asyncio.to_thread(dump_redis, redis.port)
    yield "the log of Postgres", postgres.log.encode()
    async with connect_as_superuser(postgres) as connection:
        for table in await connection.fetch(_TABLES):
            rows = await connection.fetch(f"SELECT t::text AS line FROM {table['name']} AS t")
            yield f"the table {table['name']}", "\n".join(row["line"] for row in rows).encode()


def dump_redis(port: int, match: str = "*") -> bytes:
    """Return all matching keys and their values."""
    with vendor.Redis(port=port, protocol=2) as raw:
        keys: list[Any] = list(raw.scan_iter(match, count=1000))
        texts: list[bytes] = []
        for start in range(0, len(keys), 1000):
            texts += _read_values(raw, keys[start : start + 1000])
    return b"\n".join([*keys, *texts])


def _read_values(raw: Any, keys: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the values of these keys; keys deleted meanwhile have none."""
    with raw.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.type(key)
        kinds = pipeline.execute()
        for key, kind in zip(keys, kinds, strict=True):
            pipeline.execute_command(*_READ_COMMANDS[kind](key))
        for values in pipeline.execute(raise_on_error=True):
            yield from _flatten(values)


def _flatten(values: Any) -> Iterator[bytes]:
    """Yield all byte strings in a reply."""
    match values:
        case bytes():
            yield values
        case dict():
            yield from _flatten([*values, *values.values()])
        case list():
            for each in values:
                yield from _flatten(each)


# How each type is read. Sidegate uses no other types: one would raise KeyError.
_READ_COMMANDS: Final[Mapping[bytes, Callable[[bytes], tuple[str | bytes, ...]]]] = {
    b"string": lambda key: ("GET", key),
    b"hash": lambda key: ("HGETALL", key),
    b"none": lambda key: ("GET", key),  # deleted meanwhile
}
