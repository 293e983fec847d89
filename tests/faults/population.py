"""The sessions and tokens of a run: which are checked how, and which were never valid."""

import secrets
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from random import Random
from typing import Final

from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing
from tests.faults.history import TokenCategory, now
from tests.faults.rules import Rules

# Number of recently ended sessions that are checked further.
_RECENTLY_ENDED_SIZE: Final = 200

# Share of changed or ended sessions that are hot.
_HOT_SHARE: Final = 0.6

# Seconds: longer than a cache entry in memory lives.
_MEMORY_MAX_AGE: Final = Rules().max_age + 1.0
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class ClientToken:
    """A token with its session. `number` identifies it in the history; None: never issued."""

    text: str = field(repr=False)
    number: int | None = None
    session: str | None = None
    user: str | None = None

    @property
    def redis_key_suffix(self) -> str:
        """The suffix of the keys under which Redis caches its session."""
        return f":{urlsafe_b64encode(self.digest).decode()[:43]}"

    @property
    def digest(self) -> bytes:
        """The digest under which the stores find its session."""
        return sha256(self.text.encode("ascii")).digest()


class Population:
    """The tokens to check, by group. A session that is being changed is in no group."""

    def __init__(self, random: Random, *, users: int, hot: int) -> None:
        self.users = [f"user-{number}" for number in range(users)]
        self.limited_users = [f"crowd-{number}" for number in range(10)]
        self.hot: list[ClientToken] = []
        self.warm: list[ClientToken] = []
        self.cold: list[ClientToken] = []  # evicted from Redis by the rig
        self.at_limit: deque[ClientToken] = deque(maxlen=100)
        self.recently_ended: deque[ClientToken] = deque(maxlen=_RECENTLY_ENDED_SIZE)
        self.never_valid: dict[TokenCategory, list[ClientToken]] = {}
        self.issued: dict[int, ClientToken] = {}
        self._random = random
        self._max_hot = hot
        self._numbers: dict[str, int] = {}
        self._checked_at: dict[ClientToken, float] = {}
        self._next = count(1)

    def __len__(self) -> int:
        return len(self.active)

    @property
    def active(self) -> list[ClientToken]:
        """All tokens of active sessions that are not being changed."""
        return [*self.hot, *self.warm, *self.cold]

    def issue(self, text: str, session: str, user: str) -> ClientToken:
        """Register an issued token; the same text has the same number."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = next(self._next)
            self.issued[number] = ClientToken(text, number, session, user)
        return self.issued[number]

    def add(self, token: ClientToken) -> None:
        """Add a token to the hot or the warm group."""
        group = self.hot if len(self.hot) < self._max_hot else self.warm
        group.append(token)

    def take(self) -> ClientToken | None:
        """Remove and return a token whose session is about to change; None: too few are left."""
        if len(self.warm) < 2:
            return None
        # The last hot token stays: during an outage of logins no other is added.
        is_hot = len(self.hot) > 1 and self._random.random() < _HOT_SHARE
        return _draw(self.hot if is_hot else self.warm, self._random)

    def take_many(self, number: int) -> list[ClientToken]:
        """Remove and return so many tokens whose sessions are about to change, or fewer."""
        taken = (self.take() for _ in range(number))
        return [token for token in taken if token is not None]

    def remove(self, tokens: Iterable[ClientToken]) -> None:
        """Remove tokens that became invalid."""
        invalid = set(tokens)
        for group in (self.hot, self.warm, self.cold):
            group[:] = [token for token in group if token not in invalid]
        valid = [token for token in self.at_limit if token not in invalid]
        self.at_limit.clear()
        self.at_limit.extend(valid)

    def mark_checked(self, token: ClientToken) -> None:
        """Note that a token was checked now, and may be in the memory of an instance."""
        self._checked_at[token] = now()

    def take_uncached(self) -> ClientToken | None:
        """Remove and return a token that no instance has in memory; None if none was found."""
        for _ in range(_TRIES if len(self.warm) > 1 else 0):
            token = _draw(self.warm, self._random)
            if now() - self._checked_at.get(token, 0.0) > _MEMORY_MAX_AGE:
                return token
            self.warm.append(token)
        return None

    def mark_all_warm(self) -> None:
        """Move the cold tokens to the warm group: they are in Redis again."""
        self.warm += self.cold
        self.cold.clear()

    def pick(self, group: "list[ClientToken] | deque[ClientToken]") -> ClientToken | None:
        """Return a random token of a group, or None if it is empty."""
        return self._random.choice(group) if group else None

    def pick_user(self) -> str:
        return self._random.choice(self.users)


def make_invalid_tokens(ring: KeyRing, number: int) -> dict[TokenCategory, list[ClientToken]]:
    """Return tokens that no store knows: `number` unknown and `number` forged ones, and more."""
    minted = [ring.mint(SessionType.WEB).text for _ in range(number)]
    return {
        TokenCategory.UNKNOWN: [ClientToken(text) for text in minted],
        TokenCategory.FORGED: [ClientToken(forge(text)) for text in minted],
        TokenCategory.MALFORMED: [ClientToken(text) for text in _malformed_variants(minted[0])],
    }


def forge(text: str) -> str:
    """Return a well-formed token of the same key with a random rest, and so with an invalid tag."""
    return text[:6] + urlsafe_b64encode(secrets.token_bytes(39)).decode("ascii") + text[58:]


def _malformed_variants(text: str) -> tuple[str, ...]:
    return (
        text[:-1],
        text + "A",
        text + "=",
        text.swapcase(),
        text.replace("_", "-", 1),
        "sgx" + text[3:],
        "null",
        "undefined",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.",
    )


def _draw(group: list[ClientToken], random: Random) -> ClientToken:
    index = random.randrange(len(group))
    group[index], group[-1] = group[-1], group[index]
    return group.pop()
