"""The limits that instances have to keep, and the violation of an invariant."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds. `grace` is as configured for the rig's instances; the rest are the defaults."""

    grace: float = 3.0  # a rotated-out token is still valid for so long
    long_grace: float = 60.0  # the same for sessions of type mobile
    normal_bound: float = 1.0  # a revocation takes effect within this without faults
    max_age: float = 5.0  # time to live of a cache entry in memory
    deadline: float = 0.2  # 150 ms for a check, and 50 ms to the client
    settle_time: float = 5.0  # after a fault, change notifications may be delayed for so long
    touch_interval: float = 1.0  # that a token was used is in the database after this
    persist_within: float = 60.0  # a revocation answered with 202 is durable after this
    clock_tolerance: float = 0.05  # difference between two clock readings on one machine


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation of an invariant, with what was observed and when."""

    invariant: str
    message: str
    time: float
