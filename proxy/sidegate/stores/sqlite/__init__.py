"""The SQLite stores: sessions, audit trail, analytics, locks, logout tokens."""
