"""sidegate_store_up: what of this process finds a store at fault."""

import pytest

from sidegate.observability.metrics import Metrics, build_registry


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(version="1.2.3", revocation_bound=5)
    for store in "redis", "postgres":
        metrics.watch_breaker(store, lambda: "closed")
        metrics.record_ping(store, True)
    for feed in "redis", "cache_follower", "change_poller":
        metrics.set_feed_up(feed, True)
    return metrics


def read_up(metrics: Metrics) -> dict[str, float | None]:
    registry = build_registry(metrics)
    return {
        store: registry.get_sample_value("sidegate_store_up", {"store": store})
        for store in ("redis", "postgres")
    }


def test_stores_without_a_fault_are_up(metrics: Metrics) -> None:
    assert read_up(metrics) == {"redis": 1, "postgres": 1}


def test_stores_are_up_before_they_are_pinged() -> None:
    metrics = Metrics(version="1.2.3", revocation_bound=5)
    metrics.watch_breaker("redis", lambda: "closed")
    assert read_up(metrics) == {"redis": 1, "postgres": None}


@pytest.mark.parametrize("state", ["open", "half_open"])
def test_breaker_that_is_not_closed_is_a_fault(metrics: Metrics, state: str) -> None:
    metrics.watch_breaker("postgres", lambda: state)
    assert read_up(metrics) == {"redis": 1, "postgres": 0}


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_ping_without_an_answer_is_a_fault(metrics: Metrics, store: str) -> None:
    metrics.record_ping(store, False)
    assert read_up(metrics)[store] == 0


@pytest.mark.parametrize(
    ("down", "redis"),
    [
        (["redis"], 0),  # pub/sub
        (["cache_follower"], 0),
        (["cache_follower", "change_poller"], 1),  # for lack of the database
        (["change_poller"], 1),
    ],
)
def test_feeds_are_faults_of_redis(metrics: Metrics, down: list[str], redis: int) -> None:
    for feed in down:
        metrics.set_feed_up(feed, False)
    assert read_up(metrics) == {"redis": redis, "postgres": 1}
