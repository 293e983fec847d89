"""One suite for every store, wrapper and gateway that makes the same promise."""
