"""The actor of a change, and the change's time and source address."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final


@dataclass(frozen=True, slots=True)
class Actor:
    """The originator of a change: `key:login-service`, `cli`, or Sidegate itself.

    `source` is the address the request came from, or None if it did not come over a network.
    """

    name: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """The time and the actor of a session's last change."""

    at: datetime
    by: Actor


SIDEGATE: Final = Actor("sidegate")
"""The actor of changes made without a request: a limit, a reused token, a broken binding."""
