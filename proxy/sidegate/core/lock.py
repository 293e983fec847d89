"""Session locks: exclusive leases with a time limit and a fencing token.

A holder may be paused while its lease expires, and write afterwards. So each hold has a fence that
is higher than all earlier ones. The resource that holders write to stores the highest fence it has
received, and refuses lower ones.
"""

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NewType, Self

LeaseDigest = NewType("LeaseDigest", bytes)
"""SHA-256 of a lease, 32 bytes: the only form of it in stores."""

LEASE_PATTERN: Final = re.compile(r"sgl_[A-Za-z0-9_-]{43}", re.ASCII)
"""Matches the text of every lease, and nothing else."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The secret that proves ownership of a lock. It is returned once, to the holder."""

    text: str = field(repr=False)

    @classmethod
    def mint(cls) -> Self:
        """Generate a lease of 256 random bits."""
        return cls(f"sgl_{secrets.token_urlsafe(32)}")

    def digest(self) -> LeaseDigest:
        """Return the hash that stores compare.

        A hash cannot be steered towards another one byte by byte, so the duration of a comparison
        reveals nothing about the stored lease.
        """
        return LeaseDigest(sha256(self.text.encode()).digest())


@dataclass(frozen=True, slots=True)
class Hold:
    """The lock is held until `expires_at` by the database's clock.

    `fence` is higher than that of every earlier hold on this session's lock, and below 2**53, so
    that it is exact in JSON everywhere.
    """

    fence: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Contended:
    """The lock is held by another lease until `free_at`, unless that is renewed or released.

    `free_in` is the time until then, at least 0, by the database's clock, which may differ from the
    caller's. `holder` is the name the other holder gave, or None.
    """

    free_at: datetime
    free_in: timedelta
    holder: str | None
