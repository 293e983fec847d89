"""API keys: authentication of clients of the admin API, and their scopes."""

import binascii
import re
import secrets
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple

from sidegate.core.clock import SystemClock

_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SHA256_PATTERN: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_KEY: Final = r"sgk_[A-Za-z0-9_-]{43}"
_BEARER_PATTERN: Final = re.compile(rf"[ \t]*(?i:bearer) +(?P<key>{_KEY})[ \t]*", re.ASCII)
_BASIC_PATTERN: Final = re.compile(
    r"[ \t]*(?i:basic) +(?P<encoded>[A-Za-z0-9+/]{1,200}={0,2})[ \t]*", re.ASCII
)
_CLIENT_PATTERN: Final = re.compile(
    rf"(?P<name>{_NAME_PATTERN.pattern}):(?P<key>{_KEY})".encode("ascii")
)


class Scope(StrEnum):
    """What a key may do: read, create and change, or revoke sessions. None includes another."""

    READ = "read"
    WRITE = "write"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored in the settings: `sha256` is the hash of its text, in hex.

    The text has 256 random bits, so that one round of SHA-256 is as good as a slow hash. From
    `expires_at` on it is refused; None: never.
    """

    name: str
    sha256: str = field(repr=False)
    scopes: frozenset[Scope]
    expires_at: datetime | None = None

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


class PresentedKey(NamedTuple):
    """The text of a key as it was sent, with the name that Basic has to state beside it."""

    text: str
    name: str | None = None


class KeyRefused(Exception):
    """The request has no valid key. The message says why, and nothing that was sent."""


class ApiKeys:
    """The accepted keys. Without any, every request is refused."""

    def __init__(
        self,
        keys: Iterable[ApiKey],
        *,
        now: Callable[[], datetime] = SystemClock.now,
    ) -> None:
        """Raise ValueError if two keys share a name or a hash. `now` ends those that expire."""
        self._now = now
        self._keys = tuple((key, bytes.fromhex(key.sha256)) for key in keys)
        if len({key.name for key, _ in self._keys}) != len(self._keys):
            raise ValueError("two API keys share a name")
        if len({digest for _, digest in self._keys}) != len(self._keys):
            raise ValueError("two API keys share a sha256")

    def authenticate(self, lines: Sequence[str], *, takes_basic: bool = False) -> ApiKey:
        """Return the key in the `Authorization` headers of a request, or raise KeyRefused.

        With `takes_basic` it may be a client's password, too, with the key's name as the client id.
        """
        presented = parse_key(lines, takes_basic=takes_basic)
        hashed = sha256(presented.text.encode("ascii")).digest()
        match = None
        for key, digest in self._keys:  # no early exit: the time must not depend on the key
            if compare_digest(digest, hashed):
                match = key
        if match is None or presented.name not in (None, match.name):
            raise KeyRefused("this API key is not one of admin.keys")
        if match.expires_at is not None and self._now() >= match.expires_at:
            raise KeyRefused("this API key has expired")
        return match


def parse_key(lines: Sequence[str], *, takes_basic: bool = False) -> PresentedKey:
    """Return the key in the `Authorization` headers of a request, whether known or not.

    Raise KeyRefused if there is none, or more than one header.
    """
    if not lines:
        raise KeyRefused("send an API key: Authorization: Bearer sgk_…")
    if len(lines) > 1:
        raise KeyRefused("send one Authorization header")
    if match := _BEARER_PATTERN.fullmatch(lines[0]):
        return PresentedKey(match["key"])
    if takes_basic and (basic := _BASIC_PATTERN.fullmatch(lines[0])):
        client = _CLIENT_PATTERN.fullmatch(_decode_base64(basic["encoded"]))
        if client is not None:
            return PresentedKey(client["key"].decode("ascii"), client["name"].decode("ascii"))
        raise KeyRefused("the client id has to be the name of an API key, and the secret the key")
    raise KeyRefused("Authorization has to be `Bearer` and an API key, which begins with sgk_")


def _decode_base64(text: str) -> bytes:
    """Return what is encoded; empty if `text` is not valid."""
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        return b""
