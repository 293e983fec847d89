"""The resources of one instance and its Redis at one moment."""

from dataclasses import dataclass

import redis as vendor

from tests.bench.soak.load import Load
from tests.bench.target import fetch_metrics, sum_samples
from tests.faults.resources import count_descriptors, resident_bytes
from tests.support.processes import Server
from tests.support.sidegate import Sidegate


@dataclass(frozen=True, slots=True)
class Sample:
    """`at` in seconds since the start, memory in bytes.

    `series` are the names and labels of the metrics. `cached` is what the sessions in memory take
    by the account of the instance, `issued` the number of tokens so far.
    """

    at: float
    live: int
    issued: int
    requests: int
    resident: int
    cached: int
    descriptors: int
    redis_keys: int
    redis_memory: int
    series: frozenset[str]


def take_sample(at: float, load: Load, sidegate: Sidegate, redis: Server) -> Sample:
    """Measure everything. It takes some milliseconds."""
    pid = sidegate.server.process.pid
    metrics = fetch_metrics(sidegate.ops_port)
    with vendor.Redis(port=redis.port) as client:
        memory, keyspace = client.info("memory"), client.info("keyspace")
    return Sample(
        at=at,
        live=load.count_live(),
        issued=load.issued,
        requests=load.requests,
        resident=resident_bytes(pid),
        cached=int(sum_samples(metrics, "sidegate_memory_bytes")),
        descriptors=count_descriptors(pid),
        redis_keys=sum(database["keys"] for database in keyspace.values()),
        redis_memory=memory["used_memory"],
        series=frozenset(f"{name} {sorted(labels.items())}" for name, labels, _ in metrics),
    )
