"""API keys: authentication of clients of the admin API, and their scopes."""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import Final

_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SHA256_PATTERN: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_BEARER_PATTERN: Final = re.compile(
    r"[ \t]*(?i:bearer) +(?P<key>sgk_[A-Za-z0-9_-]{43})[ \t]*", re.ASCII
)


class Scope(StrEnum):
    """What a key may do: read, create and change, or revoke sessions. None includes another."""

    READ = "read"
    WRITE = "write"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored in the settings: `sha256` is the hash of its text, in hex.

    The text has 256 random bits, so that one round of SHA-256 is as good as a slow hash.
    """

    name: str
    sha256: str = field(repr=False)
    scopes: frozenset[Scope]

    def __post_init__(self) -> None:
        if not _NAME_PATTERN.fullmatch(self.name):
            raise ValueError("an API key's name is 1 to 64 of A-Z a-z 0-9 . _ -")
        if not _SHA256_PATTERN.fullmatch(self.sha256):
            raise ValueError(f"API key {self.name}: sha256 is 64 hex digits")
        if not self.scopes:
            raise ValueError(f"API key {self.name}: a key needs at least one scope")

    @classmethod
    def mint(cls, name: str, scopes: Iterable[Scope]) -> tuple[str, "ApiKey"]:
        """Generate a key. Return its text, to be shown once, and what the settings store."""
        text = f"sgk_{secrets.token_urlsafe(32)}"
        return text, cls.from_text(name, text, scopes=scopes)

    @classmethod
    def from_text(cls, name: str, text: str, *, scopes: Iterable[Scope]) -> "ApiKey":
        """Return what the settings store of the key with this text."""
        return cls(name, sha256(text.encode()).hexdigest(), frozenset(scopes))


class ApiKeys:
    """The accepted keys. Without any, every request is refused."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        """Raise ValueError if two keys share a name or a hash."""
        self._keys = tuple((key, bytes.fromhex(key.sha256)) for key in keys)
        if len({key.name for key, _ in self._keys}) != len(self._keys):
            raise ValueError("two API keys share a name")
        if len({digest for _, digest in self._keys}) != len(self._keys):
            raise ValueError("two API keys share a sha256")

    def authenticate(self, lines: Sequence[str]) -> ApiKey | None:
        """Return the key in the `Authorization` headers of a request, or None if there is none."""
        text = parse_bearer_key(lines)
        if text is None:
            return None
        hashed = sha256(text.encode("ascii")).digest()
        match = None
        for key, digest in self._keys:  # no early exit: the time must not depend on the key
            if compare_digest(digest, hashed):
                match = key
        return match


def parse_bearer_key(lines: Sequence[str]) -> str | None:
    """Return the key text in the `Authorization` headers of a request, whether known or not.

    None if there is no key, or more than one header.
    """
    match = _BEARER_PATTERN.fullmatch(lines[0]) if len(lines) == 1 else None
    return None if match is None else match["key"]
