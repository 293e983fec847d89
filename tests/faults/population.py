"""The sessions there are, who is checked how, and tokens that were never worth anything."""

import secrets
from base64 import urlsafe_b64encode
from collections import deque
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from random import Random
from typing import Final

from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing
from tests.faults.history import Road, now
from tests.faults.rules import Rules

# Those who ended not long ago: what comes back from the dead is most likely among them.
_REMEMBERED: Final = 200

# Of those whose session ends or changes, so many are being asked for all the time.
_FROM_THE_HOT: Final = 0.6

# Longer than a copy in memory lasts.
_IN_MEMORY: Final = Rules().max_age + 1.0
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Held:
    """A token as its client holds it. `number` is its name in the history; None: never issued."""

    text: str = field(repr=False)
    number: int | None = None
    session: str | None = None
    user: str | None = None

    @property
    def copy(self) -> str:
        """How the keys end under which Redis has copies for it."""
        digest = sha256(self.text.encode("ascii")).digest()
        return f":s:{{{urlsafe_b64encode(digest).decode()[:43]}}}"


class Population:
    """Who may be checked. A session that is being changed is in none of the groups meanwhile."""

    def __init__(self, random: Random, *, users: int, hot: int) -> None:
        self.users = [f"user-{number}" for number in range(users)]
        self.crowded = [f"crowd-{number}" for number in range(10)]
        self.hot: list[Held] = []
        self.warm: list[Held] = []
        self.cold: list[Held] = []  # Redis was made to forget them
        self.crowd: deque[Held] = deque(maxlen=100)
        self.past: deque[Held] = deque(maxlen=_REMEMBERED)
        self.worthless: dict[Road, list[Held]] = {}
        self.issued: dict[int, Held] = {}
        self._random = random
        self._most_hot = hot
        self._numbers: dict[str, int] = {}
        self._seen: dict[Held, float] = {}
        self._next = count(1)

    def __len__(self) -> int:
        return len(self.living)

    @property
    def living(self) -> list[Held]:
        """Everybody whose session goes on, and is not being changed."""
        return [*self.hot, *self.warm, *self.cold]

    def issue(self, text: str, session: str, user: str) -> Held:
        """Return who holds this token now; the same token has the same number."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = next(self._next)
            self.issued[number] = Held(text, number, session, user)
        return self.issued[number]

    def join(self, held: Held) -> None:
        """Let a session be checked from now on."""
        group = self.hot if len(self.hot) < self._most_hot else self.warm
        group.append(held)

    def take(self) -> Held | None:
        """Take somebody out, whose session is about to change; None: too few are left."""
        if len(self.warm) < 2:
            return None
        # The last of the hot ones stays: while nobody can log in, none joins them.
        hot = len(self.hot) > 1 and self._random.random() < _FROM_THE_HOT
        return _drawn(self.hot if hot else self.warm, self._random)

    def seen(self, held: Held) -> None:
        """Note that somebody was asked for just now, and may be in an instance's memory."""
        self._seen[held] = now()

    def take_unseen(self) -> Held | None:
        """Take somebody out whom no instance has in memory; None: there is hardly anybody."""
        for _ in range(_TRIES if len(self.warm) > 1 else 0):
            held = _drawn(self.warm, self._random)
            if now() - self._seen.get(held, 0.0) > _IN_MEMORY:
                return held
            self.warm.append(held)
        return None

    def warm_up(self) -> None:
        """Everybody is in Redis again."""
        self.warm += self.cold
        self.cold.clear()

    def any_of(self, group: "list[Held] | deque[Held]") -> Held | None:
        """Return somebody of a group, who stays in it."""
        return self._random.choice(group) if group else None

    def a_user(self) -> str:
        return self._random.choice(self.users)


def never_issued(ring: KeyRing, number: int) -> dict[Road, list[Held]]:
    """Return tokens of each sort that no store knows: `number` unknown ones, and as many forged."""
    minted = [ring.mint(SessionType.WEB).text for _ in range(number)]
    return {
        Road.UNKNOWN: [Held(text) for text in minted],
        Road.FORGED: [Held(forged(text)) for text in minted],
        Road.MALFORMED: [Held(text) for text in _malformed(minted[0])],
    }


def forged(text: str) -> str:
    """Return a well-formed token of the same key with a random rest, and so with a wrong tag."""
    return text[:6] + urlsafe_b64encode(secrets.token_bytes(39)).decode("ascii") + text[58:]


def _malformed(text: str) -> tuple[str, ...]:
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


def _drawn(group: list[Held], random: Random) -> Held:
    place = random.randrange(len(group))
    group[place], group[-1] = group[-1], group[place]
    return group.pop()
