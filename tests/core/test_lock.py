"""Leases are unique and secret."""

from hashlib import sha256

from sidegate.core.lock import LEASE_PATTERN, Lease


def test_minted_leases_are_distinct() -> None:
    leases = {Lease.mint().text for _ in range(1000)}
    assert len(leases) == 1000
    assert all(LEASE_PATTERN.fullmatch(text) for text in leases)


def test_digest_is_sha256_and_repr_hides_the_lease() -> None:
    lease = Lease.mint()
    assert lease.digest() == sha256(lease.text.encode()).digest()
    assert lease.text not in repr(lease)
