"""The API keys of the admin door: who is calling, and what may they do?"""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_BEARER: Final = re.compile(r"[ \t]*(?i:bearer) +(?P<key>sgk_[A-Za-z0-9_-]{43})[ \t]*", re.ASCII)


class Scope(StrEnum):
    """What a key allows: to look, to begin sessions, to end them. None includes another."""

    READ = "read"
    WRITE = "write"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the settings know it: `sha256` is the hash of its text, in hex; nobody keeps that.

    The text has 256 random bits, so one round of SHA-256 is as good as a slow hash.
    """

    name: str
    sha256: str = field(repr=False)
    scopes: frozenset[Scope]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("an API key's name is 1 to 64 of A-Z a-z 0-9 . _ -")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"API key {self.name}: sha256 is 64 hex digits")
        if not self.scopes:
            raise ValueError(f"API key {self.name}: a key without a scope opens nothing")

    @classmethod
    def mint(cls, name: str, scopes: Iterable[Scope]) -> tuple[str, "ApiKey"]:
        """Make a new key: its text, to be shown once, and what the settings keep of it."""
        text = f"sgk_{secrets.token_urlsafe(32)}"
        return text, cls.of(name, text, scopes)

    @classmethod
    def of(cls, name: str, text: str, scopes: Iterable[Scope]) -> "ApiKey":
        """Return what the settings would keep of the key whose text this is."""
        return cls(name, sha256(text.encode()).hexdigest(), frozenset(scopes))


class ApiKeys:
    """Every key that is accepted. Without any, nobody is let in."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        """ValueError: two keys share a name or a hash."""
        self._keys = tuple((key, bytes.fromhex(key.sha256)) for key in keys)
        if len({key.name for key, _ in self._keys}) != len(self._keys):
            raise ValueError("two API keys share a name")
        if len({digest for _, digest in self._keys}) != len(self._keys):
            raise ValueError("two API keys share a sha256")

    def authenticate(self, lines: Sequence[str]) -> ApiKey | None:
        """Return the key presented by the `Authorization` lines of a request, or None.

        Two lines are two opinions about who is calling: neither is taken.
        """
        text = presented(lines)
        if text is None:
            return None
        hashed = sha256(text.encode("ascii")).digest()
        found = None
        for key, digest in self._keys:  # all of them, so that time tells nothing about the place
            if compare_digest(digest, hashed):
                found = key
        return found


def presented(lines: Sequence[str]) -> str | None:
    """Return the text in the `Authorization` lines of a request that may be a key; known or not."""
    spelled = _BEARER.fullmatch(lines[0]) if len(lines) == 1 else None
    return None if spelled is None else spelled["key"]
