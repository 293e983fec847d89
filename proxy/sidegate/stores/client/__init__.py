"""The wrappers around a store: batching, timeout and circuit breaker, metrics, trust."""
