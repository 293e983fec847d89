"""The seal of a Redis: how far the copies stored in it have followed the database.

It is a key in Redis itself, so it is lost, restored or rolled back together with the copies.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from sidegate.core.change_log import Mark
from sidegate.core.errors import UnreadableRecord
from sidegate.core.snapshot import Snapshot

_TOKEN_BYTES: Final = 8
_VERSION: Final = "1"
_PREFIX_SIZE: Final = len(_VERSION) + 2 * _TOKEN_BYTES + 2


@dataclass(frozen=True, slots=True)
class Seal:
    """All changes that `mark` covers are in the copies stored under `namespace`.

    The namespace is random, and part of the keys of the copies. `revision` is random, and another
    one after each page of changes, so that no two states of the copies have equal seals.
    """

    namespace: str
    mark: Mark
    revision: str

    @classmethod
    def begin(cls, mark: Mark) -> Self:
        """Return a seal with a new namespace, in which there are no copies yet."""
        return cls(secrets.token_hex(_TOKEN_BYTES), mark, secrets.token_hex(_TOKEN_BYTES))

    def advanced(self, mark: Mark | None) -> Self:
        """Return the seal of the same copies after changes were applied.

        `mark`: it covers all that they have now; None: there are more changes to apply.
        """
        revision = secrets.token_hex(_TOKEN_BYTES)
        return type(self)(self.namespace, mark or self.mark, revision)

    def encode(self) -> bytes:
        """Return the seal as it is stored in Redis."""
        mark = self.mark
        text = f"{_VERSION} {self.namespace} {mark.snapshot} {mark.id} {mark.system}"
        return f"{text} {self.revision}".encode()

    @classmethod
    def decode(cls, record: bytes) -> Self:
        """Return the seal of a record. Raise UnreadableRecord if `encode` did not write it."""
        try:
            fields = record.decode("ascii").split(" ")
            version, namespace, snapshot, id_, system, revision = fields
            sizes = {len(bytes.fromhex(token)) for token in (namespace, revision)}
            lengths = {len(namespace), len(revision)}  # fromhex skips spaces
            if version != _VERSION or sizes != {_TOKEN_BYTES} or lengths != {2 * _TOKEN_BYTES}:
                raise UnreadableRecord("seal of another version")
            seal = cls(namespace, Mark(Snapshot.parse(snapshot), system, UUID(id_)), revision)
        except ValueError as error:
            raise UnreadableRecord(type(error).__name__) from None
        if seal.encode() != record:
            raise UnreadableRecord("seal in another form")
        return seal


def read_namespace(record: bytes) -> str:
    """Return the namespace of a seal as stored, or an empty text if there is none."""
    if len(record) < _PREFIX_SIZE or not record.startswith(b"1 "):
        return ""
    return record[2 : _PREFIX_SIZE - 1].decode("ascii", "replace")


def build_prefix(namespace: str) -> bytes:
    """Return what all stored seals of a namespace begin with."""
    return f"{_VERSION} {namespace} ".encode()


CachePosition = Mapping[int, Seal]
"""How far a cache has followed the database: the seal of each bucket of its keys."""
