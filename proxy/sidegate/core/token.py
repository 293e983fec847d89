"""The opaque token and its digest: minted, read, digested, forgotten.

A token is `sg`, one letter for the session's type, `_`, and 56 base64url characters:

    sgw_  AXk3…        42 bytes: key id (1) | random (32) | tag (9)

The tag is a keyed BLAKE2s over everything before it, so that a forged token is refused before
anything beyond memory is asked. 42 bytes fill 56 characters exactly: there is no padding and there
are no spare bits, hence exactly one spelling per token.
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

from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Deny, Reason

Digest = NewType("Digest", bytes)
"""SHA-256 of a whole token, 32 bytes: the only key any store knows."""

TokenText = NewType("TokenText", bytes)
"""What is spelled like a token. Whether a key of ours has tagged it, only a KeyRing knows."""

TOKEN_PATTERN: Final = rb"sg[wmavs]_[A-Za-z0-9_-]{56}"
"""The expression of every Spelling, and of nothing else."""

_RANDOM: Final = 32
_TAG: Final = 9
_SPELLED: Final = re.compile(TOKEN_PATTERN.decode("ascii"), re.ASCII)
_STANDARD_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Token:
    """A token this house issued: its spelling is canonical and its tag was verified."""

    type: SessionType
    text: str = field(repr=False)

    def digest(self) -> Digest:
        """Return the key under which stores know the session."""
        return Digest(sha256(self.text.encode("ascii")).digest())

    def __str__(self) -> str:
        return repr(self)  # an f-string must not spell the secret either


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One key of the ring. `id` (0 to 255) is written into each token; `secret` is 32 bytes."""

    id: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.id <= 255:
            raise ValueError("a token key's id lies between 0 and 255")
        if len(self.secret) != 32:
            raise ValueError("a token key has 32 bytes")

    @classmethod
    def generate(cls, key_id: int = 1) -> "TokenKey":
        return cls(key_id, secrets.token_bytes(32))

    @classmethod
    def parse(cls, text: str) -> "TokenKey":
        """Read `id:base64url`, as `TokenKey.spell` writes it. ValueError says what is wrong."""
        key_id, colon, secret = text.strip().partition(":")
        if not colon or not key_id.isascii() or not key_id.isdigit():
            raise ValueError("a token key is written id:base64url, as in 1:q83v…")
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}=?", secret):
            raise ValueError("a token key's secret is 43 base64url characters (32 bytes)")
        return cls(int(key_id), urlsafe_b64decode(secret.rstrip("=") + "="))

    def formatted(self) -> str:
        return f"{self.id}:{urlsafe_b64encode(self.secret).decode().rstrip('=')}"


class KeyRing:
    """Mints with the newest key, reads with any. Old keys stay until their tokens have ended."""

    def __init__(self, keys: Iterable[TokenKey]) -> None:
        """Take keys newest first; ValueError when there is none or two share an id."""
        ring = tuple(keys)
        if not ring:
            raise ValueError("a key ring needs at least one key")
        self._newest = ring[0]
        self._secrets = {key.id: key.secret for key in ring}
        # They have taken in their keys, which is half of the work.
        self._taggers = {key.id: blake2s(key=key.secret, digest_size=_TAG) for key in ring}
        if len(self._secrets) != len(ring):
            raise ValueError("two token keys share an id")

    def mint(
        self, type_: SessionType, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> Token:
        """Make a token nobody has seen. `random(n)` yields n bytes; replace it only to derive."""
        return self._token(self._newest.id, type_, random(_RANDOM))

    def successors(self, token: Token, nonce: bytes) -> Iterator[Token]:
        """Yield what may follow `token` in a rotation with this nonce, the newest key's first.

        Whoever knows both gets the same tokens, whenever and on whichever instance; nobody learns
        one from the nonce alone. There are several only because keys may change in between.
        """
        for key in self._secrets:
            yield self._token(key, token.type, _derived(token, nonce))

    def derived(self, type_: SessionType, seed: bytes) -> Iterator[Token]:
        """Yield the tokens that `seed` gives, the newest key's first: the same ones every time.

        Nobody gets one from the seed alone. There are several only because keys change.
        """
        for key, secret in self._secrets.items():
            random = blake2s(seed, key=secret, digest_size=_RANDOM, person=b"derived").digest()
            yield self._token(key, type_, random)

    def read(self, text: str) -> Token | Deny:
        """Return the token spelled by `text`, or why it cannot be one of ours. Asks no store."""
        digest = self.digest(text)
        return digest if isinstance(digest, Deny) else Token(SessionType.of_letter(text[2]), text)

    def digest(self, text: str) -> Digest | Deny:
        """Read `text` for whoever needs no more of the token than its digest."""
        spelling = token_text_of(text)
        return Deny(Reason.MALFORMED) if spelling is None else self.digest_of(spelling)

    def digest_of(self, spelling: TokenText) -> Digest | Deny:
        """Return the digest of the token spelled like this, if a key of ours has tagged it."""
        return unverified_digest_of(spelling) if self.has_tagged(spelling) else Deny(Reason.FORGED)

    def has_tagged(self, spelling: TokenText) -> bool:
        """Say whether the tag is the one that a key of ours gives this token."""
        raw = a2b_base64(spelling[4:].translate(_STANDARD_ALPHABET))
        tagger = self._taggers.get(raw[0])
        if tagger is None:
            return False
        tagger = tagger.copy()
        tagger.update(spelling[2:3] + raw[:-_TAG])
        return compare_digest(raw[-_TAG:], tagger.digest())

    def _token(self, key_id: int, type_: SessionType, random: bytes) -> Token:
        body = bytes([key_id]) + random
        tagger = self._taggers[key_id].copy()
        tagger.update(type_.letter.encode() + body)
        tagged = urlsafe_b64encode(body + tagger.digest())
        return Token(type_, f"sg{type_.letter}_{tagged.decode('ascii')}")


def token_text_of(text: str) -> TokenText | None:
    """Return what is spelled like a token; None: it is not."""
    return None if _SPELLED.fullmatch(text) is None else TokenText(text.encode("ascii"))


def unverified_digest_of(spelling: TokenText) -> Digest:
    """Return the digest of what is spelled like this. Whether a key of ours has tagged it, nobody
    has looked.
    """
    return Digest(sha256(spelling).digest())


def _derived(token: Token, nonce: bytes) -> bytes:
    return blake2s(
        token.text.encode("ascii"), key=nonce, digest_size=_RANDOM, person=b"rotation"
    ).digest()
