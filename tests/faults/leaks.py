"""Look for tokens where none may be: logs, metrics, Redis, the database (I11)."""

import asyncio
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import redis as vendor

from tests.faults.deployment import superuser
from tests.faults.gateway import Upstream
from tests.faults.history import now
from tests.faults.population import Held
from tests.faults.rules import Breach
from tests.faults.watch import metrics_text
from tests.support.processes import Server

# Any token at all, whoever issued it; longer than a digest, in which the like may occur by chance.
_TOKEN: Final = re.compile(rb"sg[a-z]_[A-Za-z0-9_-]{40,}")

# Of a token's 42 bytes the first says which key it was, 32 are random, the rest follows from them.
_RANDOM: Final = slice(1, 33)

# In what else they could be spelled: runs of these characters, at least as long as the secret.
_BASE64: Final = re.compile(rb"[A-Za-z0-9_-]{56,}")
_HEX: Final = re.compile(rb"[0-9a-f]{64,}")
_TABLES: Final = (
    "SELECT oid::regclass::text AS name FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)
_ANYTHING: Final = re.compile(rb"(?s).{32,}")


async def leaks(
    upstreams: Iterable[Upstream], redis: Server, postgres: Server, issued: Iterable[Held]
) -> list[Breach]:
    """Return each place that holds a token, in whatever spelling. The tokens stay out of it."""
    secrets = await asyncio.to_thread(Secrets, issued)
    return [
        Breach("I11", f"{place} holds a token", now())
        async for place, text in _places(upstreams, redis, postgres)
        if await asyncio.to_thread(secrets.are_in, text)
    ]


class Secrets:
    """The tokens that were issued, in every spelling somebody could think of."""

    def __init__(self, issued: Iterable[Held]) -> None:
        bodies = {held.text[4:].encode("ascii") for held in issued}
        random = {urlsafe_b64decode(body)[_RANDOM] for body in bodies}
        self._spelled = (
            (_BASE64, 56, bodies),
            (_HEX, 64, {secret.hex().encode("ascii") for secret in random}),
            (_ANYTHING, 32, random),
        )

    def are_in(self, text: bytes) -> bool:
        """Say whether the text holds one of them, or anything that looks like a token."""
        return _TOKEN.search(text) is not None or any(
            run[0][place : place + length] in secrets
            for runs, length, secrets in self._spelled
            for run in runs.finditer(text)
            for place in range(len(run[0]) - length + 1)
        )


async def _places(
    upstreams: Iterable[Upstream], redis: Server, postgres: Server
) -> AsyncIterator[tuple[str, bytes]]:
    for upstream in upstreams:
        yield f"the log of {upstream.name}", upstream.sidegate.server.log.encode()
        yield f"a metric of {upstream.name}", (await metrics_text(upstream) or "").encode()
    yield "Redis", await asyncio.to_thread(everything_in_redis, redis.port)
    yield "the log of Postgres", postgres.log.encode()
    async with superuser(postgres) as connection:
        for table in await connection.fetch(_TABLES):
            rows = await connection.fetch(f"SELECT t::text AS line FROM {table['name']} AS t")
            yield f"the table {table['name']}", "\n".join(row["line"] for row in rows).encode()


def everything_in_redis(port: int, match: str = "*") -> bytes:
    """Return all keys that match, and what is kept under them."""
    with vendor.Redis(port=port, protocol=2) as raw:
        keys: list[Any] = list(raw.scan_iter(match, count=1000))
        words: list[bytes] = []
        for start in range(0, len(keys), 1000):
            words += _kept(raw, keys[start : start + 1000])
    return b"\n".join([*keys, *words])


def _kept(raw: Any, keys: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what is kept under these keys; what has gone meanwhile is kept no more."""
    with raw.pipeline(transaction=False) as asking:
        for key in keys:
            asking.type(key)
        kinds = asking.execute()
        for key, kind in zip(keys, kinds, strict=True):
            asking.execute_command(*_READ[kind](key))
        for kept in asking.execute(raise_on_error=True):
            yield from _words(kept)


def _words(kept: Any) -> Iterator[bytes]:
    """Yield every text of a reply."""
    match kept:
        case bytes():
            yield kept
        case dict():
            yield from _words([*kept, *kept.values()])
        case list():
            for each in kept:
                yield from _words(each)


# How each type is read; another one than these Sidegate does not use, and the rig ends for it.
_READ: Final[Mapping[bytes, Callable[[bytes], tuple[str | bytes, ...]]]] = {
    b"string": lambda key: ("GET", key),
    b"hash": lambda key: ("HGETALL", key),
    b"none": lambda key: ("GET", key),  # it has gone
}
