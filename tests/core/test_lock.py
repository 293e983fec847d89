"""Leases: each its own, hidden from whoever prints them."""

from hashlib import sha256

from sidegate.core.lock import LEASE, Lease


def test_no_two_leases_are_alike() -> None:
    leases = {Lease.mint().text for _ in range(1000)}
    assert len(leases) == 1000
    assert all(LEASE.fullmatch(text) for text in leases)


def test_stores_are_given_the_hash_of_a_lease_and_printers_nothing() -> None:
    lease = Lease.mint()
    assert lease.digest() == sha256(lease.text.encode()).digest()
    assert lease.text not in repr(lease)
