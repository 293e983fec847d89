"""Growth in the second half of a run is explained by tokens and cached sessions, or it is not."""

from dataclasses import replace

import pytest

from tests.bench.soak.__main__ import format_growth
from tests.bench.soak.growth import RESOURCES, Growth, find_new_series, measure_growth
from tests.bench.soak.sample import Sample

START = Sample(
    at=0.0,
    live=100,
    issued=0,
    requests=0,
    resident=80_000_000,
    cached=0,
    descriptors=40,
    redis_keys=30,
    redis_memory=1_000_000,
    series=frozenset({"sidegate_checks_total []"}),
)


def run(**per_token: float) -> list[Sample]:
    """Return samples of a run in which every token adds this much."""
    return [
        replace(
            START,
            at=float(at),
            issued=at * 100,
            **{
                name: getattr(START, name) + int(at * 100 * each)
                for name, each in per_token.items()
            },
        )
        for at in range(40)
    ]


def unexplained(samples: list[Sample]) -> list[str]:
    return [each.resource.name for each in measure_growth(samples) if not each.is_explained]


def test_constant_resources_are_explained() -> None:
    assert unexplained(run()) == []


def test_growth_with_the_tokens_is_explained() -> None:
    grown = run(cached=1300, resident=1300 * 8 / 7, redis_keys=1, redis_memory=1000)

    assert unexplained(grown) == []


@pytest.mark.parametrize(
    ("leak", "resource"),
    [
        ({"resident": 2000}, "resident memory, MB"),
        ({"resident": 4000, "cached": 1300}, "resident memory, MB"),
        ({"resident": 3000, "cached": 2000}, "cached sessions, MB"),
        ({"descriptors": 0.01}, "descriptors"),
        ({"redis_keys": 1.2}, "Redis keys"),
        ({"redis_memory": 1300}, "Redis memory, MB"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_leak_is_not_explained(leak: dict[str, float], resource: str) -> None:
    assert unexplained(run(**leak)) == [resource]


def test_growth_in_the_first_half_is_the_warm_up() -> None:
    half = run(resident=5000, descriptors=0.01)[:20]
    full = [replace(half[-1], at=float(at), issued=at * 100) for at in range(20, 40)]

    assert unexplained([*half, *full]) == []


def test_one_outlier_is_no_growth() -> None:
    samples = run()
    samples[30] = replace(samples[30], resident=90_000_000)

    assert unexplained(samples) == []


def test_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="at least four"):
        measure_growth(run()[:3])


def test_table_has_the_verdicts() -> None:
    memory, descriptors = RESOURCES[0], RESOURCES[2]
    table = format_growth(
        [Growth(memory, 80e6, 9e6, 2e6), Growth(descriptors, mean=40, growth=0, explained=0)]
    )

    assert table.splitlines() == [
        "in the second half         mean     growth  explained    allowed",
        "resident memory, MB       80.00       9.00       2.00       5.20  NOT EXPLAINED",
        "descriptors               40.00       0.00       0.00       4.00  explained",
    ]


def test_series_that_appear_in_the_second_half_are_named_and_not_explained() -> None:
    samples = run()
    names = frozenset({"one []", "two []"})
    late = [
        replace(each, series=each.series | names) if number > 30 else each
        for number, each in enumerate(samples)
    ]

    assert unexplained(late) == ["metric series"]
    assert find_new_series(late) == ["one []", "two []"]
    assert find_new_series(samples) == []
