"""Whole deployments, real stores, and what happens to them at three in the morning."""
