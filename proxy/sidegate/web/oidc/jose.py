"""JSON Web Keys (RFC 7517) and the verification of JSON Web Signatures (RFC 7515)."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError

# Other members of a key are dropped, above all private ones.
_PUBLIC_MEMBERS: Final = ("kty", "n", "e", "crv", "x", "y")
_MAX_KEYS: Final = 100


@dataclass(frozen=True, slots=True)
class Key:
    """A public key for one algorithm. `id` is its `kid`, if any."""

    id: str | None
    algorithm: str
    _key: PyJWK = field(repr=False)

    def verifies(self, signed: str) -> bool:
        """Return whether `signed`, a compact JWS, has a valid signature by this key."""
        try:
            PyJWS().decode_complete(signed, self._key, [self.algorithm])
        except PyJWTError:
            return False
        return True


def parse_jwk_set(document: object, algorithms: Collection[str]) -> tuple[Key, ...]:
    """Return the keys of a JWK Set, each once for each of `algorithms` it may be used with.

    Keys for other uses, of unknown types or too short are ignored (RFC 7517, section 5). Raise
    ValueError if `document` is not a JWK Set.
    """
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list) or not all(isinstance(jwk, dict) for jwk in jwks):
        raise ValueError("the document is not a JWK Set")
    if len(jwks) > _MAX_KEYS:
        raise ValueError(f"the JWK Set has more than {_MAX_KEYS} keys")
    return tuple(key for jwk in jwks for key in _parse_key(jwk, algorithms))


def _parse_key(jwk: Mapping[str, Any], algorithms: Collection[str]) -> Iterator[Key]:
    operations, key_id = jwk.get("key_ops", ["verify"]), jwk.get("kid")
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list):
        return
    if "verify" not in operations or not isinstance(key_id, str | None):
        return
    public = {name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}
    for algorithm in algorithms:
        if jwk.get("alg", algorithm) == algorithm and (key := _load_key(public, algorithm)):
            yield Key(key_id, algorithm, key)


def _load_key(public: dict[str, Any], algorithm: str) -> PyJWK | None:
    """Return the key, or None if its type, curve or length does not suit `algorithm`."""
    try:
        key = PyJWK(public, algorithm)
        too_short = key.Algorithm.check_key_length(key.Algorithm.prepare_key(key.key))
    except PyJWTError:
        return None
    return None if too_short else key
