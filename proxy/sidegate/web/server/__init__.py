"""The HTTP server: listeners, the fast path for plain requests, parsing and writing."""
