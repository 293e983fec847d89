"""A provider's JSON Web Keys (RFC 7517), and what their signatures verify (RFC 7515)."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError

# Of whatever else a key says of itself, nothing is believed; least of all a private exponent.
_PUBLIC: Final = ("kty", "n", "e", "crv", "x", "y")
_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, to be used with one algorithm. `id` is the `kid` it goes by, if any."""

    id: str | None
    algorithm: str
    _key: PyJWK = field(repr=False)

    def verifies(self, signed: str) -> bool:
        """Say whether `signed`, a compact JWS, is signed with this key and this algorithm."""
        try:
            PyJWS().decode_complete(signed, self._key, [self.algorithm])
        except PyJWTError:
            return False
        return True


def read_keys(document: object, algorithms: Collection[str]) -> tuple[Key, ...]:
    """Return the keys of a JWK Set, each once for each of `algorithms` it may be used with.

    Keys that are for something else, too short, or of a kind nobody here knows are passed over, as
    RFC 7517 5 wants. ValueError: it is no JWK Set.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ValueError("it is no JWK Set")
    if len(listed) > _MOST:
        raise ValueError(f"it has more than {_MOST} keys")
    return tuple(key for each in listed for key in _keys_of(each, algorithms))


def _keys_of(jwk: Mapping[str, Any], algorithms: Collection[str]) -> Iterator[Key]:
    operations, key_id = jwk.get("key_ops", ["verify"]), jwk.get("kid")
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list):
        return
    if "verify" not in operations or not isinstance(key_id, str | None):
        return
    public = {name: jwk[name] for name in _PUBLIC if name in jwk}
    for algorithm in algorithms:
        if jwk.get("alg", algorithm) == algorithm and (key := _usable(public, algorithm)):
            yield Key(key_id, algorithm, key)


def _usable(public: dict[str, Any], algorithm: str) -> PyJWK | None:
    """Return the key if `algorithm` takes it: its type, its curve, its length."""
    try:
        key = PyJWK(public, algorithm)
        too_short = key.Algorithm.check_key_length(key.Algorithm.prepare_key(key.key))
    except PyJWTError:
        return None
    return None if too_short else key
