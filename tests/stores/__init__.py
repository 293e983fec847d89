"""Tests of single stores; the contracts that all stores share are in tests/contracts."""
