"""An Idempotency-Key: a request that is sent again begins no second session, and gets its answer.

No token is stored, so the one in the answer is made again. It takes the API key's text and the
Idempotency-Key, which only the caller has, a token key, which only this house has, and the
session's id. So neither the database, nor the settings, nor an API key is enough to make it; and a
key that is used again after its session was deleted gives another token.
"""

from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Self


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes two requests the same one.

    `claim` may be stored: whoever does not know the API key can neither make nor read it. `seed`
    differs for every body, and must be forgotten.
    """

    claim: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def of(cls, *, api_key: str, key: str, body: bytes) -> Self:
        """Take the API key's whole text, the Idempotency-Key, and what was asked for."""
        # Not the SHA-256 that the settings keep: whoever reads those is not to get this.
        caller = _hash(b"caller", b"", api_key.encode())
        claim = _hash(b"claim", caller, key.encode())
        return cls(claim, _hash(b"seed", caller, claim + body))


def _hash(purpose: bytes, key: bytes, content: bytes) -> bytes:
    return blake2s(content, key=key, person=purpose).digest()
