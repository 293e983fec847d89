"""Tests of SessionLookup; its contract as a finder is in tests/contracts."""
