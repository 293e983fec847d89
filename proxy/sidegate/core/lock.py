"""A lock on a session: held for a time by one, with a number that tells late writers apart.

Nobody can be kept from being late: a holder may be asleep while its time runs out, and write when
it wakes. So each hold has a fence, higher than any before it. Whatever the holders write to
remembers the highest fence it has seen, and refuses lower ones.
"""

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NewType, Self

LeaseDigest = NewType("LeaseDigest", bytes)
"""SHA-256 of a lease: all that a store knows of it."""

LEASE: Final = re.compile(r"sgl_[A-Za-z0-9_-]{43}", re.ASCII)
"""How a lease is spelled."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What whoever has the lock proves it with: a secret, told once, to the holder alone."""

    text: str = field(repr=False)

    @classmethod
    def mint(cls) -> Self:
        """Make a new one, of 256 random bits."""
        return cls(f"sgl_{secrets.token_urlsafe(32)}")

    def digest(self) -> LeaseDigest:
        """Return what stores compare.

        Nobody can steer the bytes of a hash towards another's, so how long a comparison takes tells
        nothing about the lease that is held.
        """
        return LeaseDigest(sha256(self.text.encode()).digest())


@dataclass(frozen=True, slots=True)
class Hold:
    """The lock is held until `expires_at`, by the clock of the durable store.

    `fence` is higher than that of every earlier hold on this session's lock, and below 2**53, so
    that it is exact in JSON everywhere.
    """

    fence: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Contended:
    """Somebody else holds the lock, until `free_at` unless it is renewed or released before.

    `free_in` is how long that is, from 0 on, by the clock of the durable store, which need not be
    the caller's. `holder` is what that somebody is called, if they said.
    """

    free_at: datetime
    free_in: timedelta
    holder: str | None
