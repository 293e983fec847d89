"""Scenario tests: whole deployments on real stores, with outages and failovers."""
