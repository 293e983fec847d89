"""Everything random in a run, from its seed."""

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID

_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0x2 << 62


@contextmanager
def seeded_entropy(seed: object, *, milliseconds: Any) -> Iterator[None]:
    """Replace what the operating system has for randomness, and the ids of sessions.

    `milliseconds` returns the time since 1970 for ids. The collector of garbage is stopped: what it
    ends, and when, is not a function of the seed.
    """
    source = random.Random(f"{seed} entropy")
    state = random.getstate()
    random.seed(f"{seed} jitter")

    def build_id() -> UUID:
        number = source.getrandbits(74)
        high, low = number >> 62, number & (1 << 62) - 1
        return UUID(int=milliseconds() << 80 | _VERSION_7 | high << 64 | _VARIANT | low)

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with (
            patch.object(os, "urandom", source.randbytes),
            patch.object(random, "_urandom", source.randbytes),
            patch("sidegate.runtime.container.uuid7", build_id),
        ):
            yield
    finally:
        random.setstate(state)
        if was_enabled:
            gc.enable()
