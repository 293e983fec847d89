"""Shared by both SQL databases: rows, conditions, retries of unknown outcomes, migrations."""
