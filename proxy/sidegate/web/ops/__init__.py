"""The ops listener: liveness, readiness, metrics."""
