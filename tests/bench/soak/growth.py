"""How much each resource grew in the second half of the run, and how much it may. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression
from typing import Final

from tests.bench.soak.sample import Sample

# A record of some 600 bytes, its key of 90, and what Redis keeps for each key.
_BYTES_PER_COPY: Final = 1024

# A bound session in memory, and the process a seventh more (config/sidegate.yaml, memory).
_BYTES_IN_MEMORY: Final = 1.3 * 1024
_PROCESS_OVERHEAD: Final = 8 / 7


@dataclass(frozen=True, slots=True)
class Resource:
    """`explained`: what sessions and settings account for. It may grow as much, and not shrink.

    `tolerance` is the share of its size by which it may grow besides: allocators and hash tables
    grow in steps.
    """

    name: str
    value: Callable[[Sample], float]
    explained: Callable[[Sample], float]
    tolerance: float
    unit: float = 1.0


RESOURCES: Final = (
    Resource(
        "resident memory, MB",
        lambda sample: sample.resident,
        lambda sample: sample.cached * _PROCESS_OVERHEAD,
        tolerance=0.04,
        unit=1e6,
    ),
    # Ended sessions leave memory only for others, when it is full.
    Resource(
        "cached sessions, MB",
        lambda sample: sample.cached,
        lambda sample: sample.issued * _BYTES_IN_MEMORY,
        tolerance=0.02,
        unit=1e6,
    ),
    Resource("descriptors", lambda sample: sample.descriptors, lambda _: 0, tolerance=0.1),
    # A copy in Redis expires an hour after it was written, however soon its session ends: in a
    # shorter run there is one for each token.
    Resource(
        "Redis keys", lambda sample: sample.redis_keys, lambda sample: sample.issued, tolerance=0.02
    ),
    Resource(
        "Redis memory, MB",
        lambda sample: sample.redis_memory,
        lambda sample: sample.issued * _BYTES_PER_COPY,
        tolerance=0.05,
        unit=1e6,
    ),
    Resource("metric series", lambda sample: len(sample.series), lambda _: 0, tolerance=0.01),
)


@dataclass(frozen=True, slots=True)
class Growth:
    """The growth of a resource in the second half, by the slope of all its samples."""

    resource: Resource
    mean: float
    growth: float
    explained: float

    @property
    def allowed(self) -> float:
        return max(self.explained, 0.0) + self.mean * self.resource.tolerance

    @property
    def is_explained(self) -> bool:
        return self.growth <= self.allowed


def measure_growth(samples: Sequence[Sample]) -> list[Growth]:
    """Return the growth of each resource. The first half is the warm-up.

    Raise ValueError for fewer than four samples, of which nothing can be said.
    """
    if len(samples) < 4:
        raise ValueError("at least four samples are needed")
    second_half = samples[len(samples) // 2 :]
    return [
        Growth(
            resource,
            fmean(map(resource.value, second_half)),
            _growth(second_half, resource.value),
            _growth(second_half, resource.explained),
        )
        for resource in RESOURCES
    ]


def find_new_series(samples: Sequence[Sample]) -> list[str]:
    """Return the metric series that were not there before the second half."""
    return sorted(samples[-1].series - samples[len(samples) // 2 - 1].series)


def _growth(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """Return the slope times the duration: what one outlier does not change by much."""
    times = [sample.at for sample in samples]
    return linear_regression(times, [value(each) for each in samples]).slope * (
        times[-1] - times[0]
    )
