"""The ops listener: liveness, readiness and metrics."""
