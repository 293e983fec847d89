"""What Sidegate remembers: leaves (memory, Redis, Postgres, SQLite) and the wrappers round them."""
