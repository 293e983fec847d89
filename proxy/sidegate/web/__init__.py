"""The HTTP side: listeners, the gate, the admin API and operations."""
