"""The digest of a token: the only key under which stores know a session."""

from typing import NewType

Digest = NewType("Digest", bytes)
"""SHA-256 of a whole token, 32 bytes. It reveals nothing of the token, but is not logged."""
