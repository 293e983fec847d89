"""Who changes a session, when, and from where it was asked for."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever changes something: `key:login-service`, `cli`, or Sidegate itself.

    `source` is the address the change was asked for from, if it came over a network.
    """

    name: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """When a session was changed last, and by whom."""

    at: datetime
    by: Actor


SIDEGATE: Final = Actor("sidegate")
"""Nobody asked for it: a limit, a stolen token, a broken binding."""
