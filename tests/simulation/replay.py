"""A text that repeats a run exactly: its seed, its build, and the steps left of its plan."""

import json
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final

from tests.simulation.broken_builds import BUILDS, Build
from tests.simulation.run import Outcome, Plan, simulate

_VERSION: Final = "s1"


class BadToken(ValueError):
    """The text is no replay token, or one of another version."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A run. `steps`: the numbers of those that are left; None: all of the seed's plan."""

    seed: str
    build: str | None = None
    steps: tuple[int, ...] | None = None

    def plan(self) -> Plan:
        plan = Plan.draw(self.seed)
        return plan if self.steps is None else plan.only(self.steps)

    def run(self) -> Outcome:
        build: Build | None = None if self.build is None else BUILDS[self.build]
        return simulate(self.plan(), build=build)

    def format(self) -> str:
        """Return the token."""
        content = json.dumps([self.seed, self.build, self.steps], separators=(",", ":"))
        packed = zlib.compress(content.encode(), 9)
        return f"{_VERSION}-{urlsafe_b64encode(packed).decode().rstrip('=')}"

    @classmethod
    def parse(cls, text: str) -> "Replay":
        """Return the run of a token. Raise BadToken if it is none."""
        version, _, encoded = text.strip().partition("-")
        if version != _VERSION:
            raise BadToken(f"a replay token begins with {_VERSION}-")
        try:
            packed = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            seed, build, steps = json.loads(zlib.decompress(packed))
        except (ValueError, zlib.error):
            raise BadToken("the replay token is damaged") from None
        if build is not None and build not in BUILDS:
            raise BadToken(f"there is no broken build {build}")
        return cls(str(seed), build, None if steps is None else tuple(map(int, steps)))
