"""Episodes: how each fault is injected, held and repaired."""
