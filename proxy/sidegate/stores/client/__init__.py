"""What a store is wrapped in: batches, deadline and circuit breaker, metrics, trust."""
