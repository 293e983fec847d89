"""Opaque session tokens: minting, parsing, verification and digests.

A token is `sg`, one letter for the session's type, `_`, and 56 base64url characters:

    sgw_  AXk3…        42 bytes: key id (1) | random (32) | tag (9)

The tag is a keyed BLAKE2s over everything before it, so that forged tokens are refused without a
store lookup. 42 bytes fill 56 characters exactly: there is no padding and there are no spare bits,
hence exactly one text per token.
"""

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2s, sha256
from hmac import compare_digest
from typing import Final, NewType

from sidegate.core.digest import Digest
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Deny, Reason

TokenText = NewType("TokenText", bytes)
"""The ASCII text of a token, checked for its format only. A KeyRing verifies the tag."""

TOKEN_PATTERN: Final = rb"sg[wmavs]_[A-Za-z0-9_-]{56}"
"""Matches every TokenText, and nothing else."""

TOKEN_SIZE: Final = 60
"""The bytes of every TokenText."""

_RANDOM: Final = 32  # bytes
_TAG: Final = 9  # bytes
_TOKEN_TEXT: Final = re.compile(TOKEN_PATTERN.decode("ascii"), re.ASCII)
_STANDARD_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Token:
    """A token issued by Sidegate: its format and its tag are verified."""

    type: SessionType
    text: str = field(repr=False)

    def digest(self) -> Digest:
        """Return the digest under which stores find the session."""
        return Digest(sha256(self.text.encode("ascii")).digest())

    def __str__(self) -> str:
        return repr(self)  # an f-string must not reveal the secret either


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One key of a KeyRing. `id` (0 to 255) is part of each token; `secret` has 32 bytes."""

    id: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.id <= 255:
            raise ValueError("a token key's id must be between 0 and 255")
        if len(self.secret) != 32:
            raise ValueError("a token key must have 32 bytes")

    @classmethod
    def generate(cls, key_id: int = 1) -> "TokenKey":
        return cls(key_id, secrets.token_bytes(32))

    @classmethod
    def parse(cls, text: str) -> "TokenKey":
        """Parse `id:base64url`, the output of `format`. Raise ValueError with the cause."""
        key_id, colon, secret = text.strip().partition(":")
        if not colon or not key_id.isascii() or not key_id.isdigit():
            raise ValueError("write a token key as id:base64url, for example 1:q83v…")
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}=?", secret):
            raise ValueError("a token key's secret must be 43 base64url characters (32 bytes)")
        return cls(int(key_id), urlsafe_b64decode(secret.rstrip("=") + "="))

    def format(self) -> str:
        return f"{self.id}:{urlsafe_b64encode(self.secret).decode().rstrip('=')}"


class KeyRing:
    """Token keys: the newest mints tokens, all verify them.

    An old key must stay in the ring until all tokens minted with it have ended.
    """

    def __init__(self, keys: Iterable[TokenKey]) -> None:
        """Take the keys, the newest first. Raise ValueError for no keys or equal ids."""
        ring = tuple(keys)
        if not ring:
            raise ValueError("at least one token key is required")
        self._newest = ring[0]
        self._secrets = {key.id: key.secret for key in ring}
        # Keyed once and copied for each token: the key setup is half of the work.
        self._taggers = {key.id: blake2s(key=key.secret, digest_size=_TAG) for key in ring}
        if len(self._secrets) != len(ring):
            raise ValueError("two token keys have the same id")

    def mint(
        self, type_: SessionType, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> Token:
        """Mint a new token. `random(n)` returns n random bytes; it is replaced in tests only."""
        return self._build_token(self._newest.id, type_, random=random(_RANDOM))

    def derive_key(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes for `purpose`, the same wherever the newest key is the same."""
        return blake2s(purpose, key=self._newest.secret).digest()

    def derive_successors(self, token: Token, nonce: bytes) -> Iterator[Token]:
        """Yield the possible successors of `token` in a rotation, one per key, the newest first.

        The same token and nonce give the same successors at any time and on any instance. The nonce
        alone reveals none. There is one per key because the newest key may have changed since.
        """
        for key in self._secrets:
            yield self._build_token(key, token.type, random=_derive_random(token, nonce))

    def derive_tokens(self, type_: SessionType, seed: bytes) -> Iterator[Token]:
        """Yield the tokens derived from `seed`, one per key, the newest first.

        The same seed gives the same tokens. The seed alone reveals none. There is one per key
        because the newest key may have changed since.
        """
        for key, secret in self._secrets.items():
            random = blake2s(seed, key=secret, digest_size=_RANDOM, person=b"derived").digest()
            yield self._build_token(key, type_, random=random)

    def parse(self, text: str) -> Token | Deny:
        """Return the token in `text`, or Deny(MALFORMED or FORGED). Needs no store."""
        digest = self.parse_digest(text)
        return digest if isinstance(digest, Deny) else Token(SessionType.from_letter(text[2]), text)

    def parse_digest(self, text: str) -> Digest | Deny:
        """Return the digest of the token in `text`, or the Deny that `parse` would return."""
        token_text = parse_token_text(text)
        return Deny(Reason.MALFORMED) if token_text is None else self.verify(token_text)

    def verify(self, token_text: TokenText) -> Digest | Deny:
        """Return the digest of a token, or Deny(FORGED) if its tag is not valid."""
        if self.has_valid_tag(token_text):
            return digest_unverified(token_text)
        return Deny(Reason.FORGED)

    def has_valid_tag(self, token_text: TokenText) -> bool:
        """Return whether a key of this ring made the token's tag."""
        raw = a2b_base64(token_text[4:].translate(_STANDARD_ALPHABET))
        tagger = self._taggers.get(raw[0])
        if tagger is None:
            return False
        tagger = tagger.copy()
        tagger.update(token_text[2:3] + raw[:-_TAG])
        return compare_digest(raw[-_TAG:], tagger.digest())

    def _build_token(self, key_id: int, type_: SessionType, *, random: bytes) -> Token:
        body = bytes([key_id]) + random
        tagger = self._taggers[key_id].copy()
        tagger.update(type_.letter.encode() + body)
        tagged = urlsafe_b64encode(body + tagger.digest())
        return Token(type_, f"sg{type_.letter}_{tagged.decode('ascii')}")


def parse_token_text(text: str) -> TokenText | None:
    """Return `text` as a TokenText, or None if it does not have the format of a token."""
    return None if _TOKEN_TEXT.fullmatch(text) is None else TokenText(text.encode("ascii"))


def digest_unverified(token_text: TokenText) -> Digest:
    """Return the digest of a token whose tag may not have been verified."""
    return Digest(sha256(token_text).digest())


def _derive_random(token: Token, nonce: bytes) -> bytes:
    return blake2s(
        token.text.encode("ascii"), key=nonce, digest_size=_RANDOM, person=b"rotation"
    ).digest()
