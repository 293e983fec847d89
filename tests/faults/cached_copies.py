"""Read the copies of sessions that a Redis holds, in the namespace that its seal names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final

import redis as vendor

from sidegate.core.digest import Digest
from sidegate.core.errors import UnreadableRecord
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.codec import decode
from sidegate.stores.redis.sealed_write import build_key, build_key_pattern, build_seal_key
from tests.faults.population import ClientToken

_BATCH_SIZE: Final = 1000

# The bucket of all keys of a Redis that is no Cluster.
_BUCKET: Final = 0


def read_copies(port: int) -> list[Session]:
    """Return all copies in the Redis on this port; none without a seal."""
    copies: list[Session] = []
    with _open(port) as raw:
        namespace = _read_namespace(raw)
        if namespace is not None:
            keys: Iterator[Any] = raw.scan_iter(build_key_pattern(namespace), count=_BATCH_SIZE)
            while batch := list(islice(keys, _BATCH_SIZE)):
                copies += _decode_all(raw.mget(batch))
    return copies


def find_open_copies(port: int, tokens: Sequence[ClientToken]) -> set[ClientToken]:
    """Return the tokens for which this Redis holds a copy of a session that is not revoked."""
    with _open(port) as raw:
        namespace = _read_namespace(raw)
        if namespace is None or not tokens:
            return set()
        digests = (Digest(token.digest) for token in tokens)
        copies = _decode_all(
            raw.mget([build_key(_BUCKET, digest, namespace=namespace) for digest in digests])
        )
        open_digests = {copy.digest for copy in copies if copy.revoked_at is None}
    return {token for token in tokens if token.digest in open_digests}


@contextmanager
def _open(port: int) -> Iterator[Any]:
    with vendor.Redis(port=port, protocol=2, socket_timeout=10) as raw:
        yield raw


def _read_namespace(raw: Any) -> str | None:
    seal = raw.get(build_seal_key(_BUCKET))
    return None if seal is None else Seal.decode(seal).namespace


def _decode_all(records: Any) -> Iterator[Session]:
    for record in records:
        with suppress(UnreadableRecord):  # only a header: it blocks older copies
            if isinstance(record, bytes):
                yield decode(record)
