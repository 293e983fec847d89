"""Session stores: backends (memory, Redis, Postgres, SQLite) and the wrappers around them."""
