"""Idempotency keys: a repeated request creates no second session and gets the same reply.

Tokens are not stored, so the token of the reply is derived again. That takes the API key's text and
the Idempotency-Key, which only the caller has, a token key, which only Sidegate has, and the
session's id. Neither the database, nor the settings, nor an API key alone is enough. A key used
again after its session was deleted gives another token.
"""

from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Self


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The identity of a request with an Idempotency-Key.

    `key_hash` may be stored: without the API key it can be neither computed nor reversed. `seed`
    also depends on the body, and must not be stored.
    """

    key_hash: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def from_request(cls, *, api_key: str, key: str, body: bytes) -> Self:
        """Compute it from the API key's whole text, the Idempotency-Key and the request's body."""
        # Not the SHA-256 in the settings: read access to those must not be enough to compute this.
        caller = _hash(b"caller", b"", content=api_key.encode())
        # The purposes are part of stored hashes, and must not change.
        key_hash = _hash(b"claim", caller, content=key.encode())
        return cls(key_hash, _hash(b"seed", caller, content=key_hash + body))


def _hash(purpose: bytes, key: bytes, *, content: bytes) -> bytes:
    return blake2s(content, key=key, person=purpose).digest()
