"""The Postgres stores: sessions, audit trail, analytics, locks, logout tokens."""
