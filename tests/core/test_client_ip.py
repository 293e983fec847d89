"""Addresses as text that sorts: a network is one stretch of it."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.client_ip import sortable, stretch


@given(st.ip_addresses(), st.integers(0, 128))
def test_an_address_lies_in_the_stretch_of_its_own_network(ip: object, bits: int) -> None:
    address = ip_address(str(ip))
    network = ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    first, last = stretch(network)
    assert first <= (sortable(str(address)) or "") <= last


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_addresses_sort_as_their_numbers_do(one: object, other: object) -> None:
    texts = [sortable(str(one)) or "", sortable(str(other)) or ""]
    numbers = [int(ip_address(str(one))), int(ip_address(str(other)))]
    assert (texts[0] < texts[1]) == (numbers[0] < numbers[1])


def test_an_ipv4_address_is_the_same_one_within_ipv6() -> None:
    assert sortable("192.0.2.1") == sortable("::ffff:192.0.2.1")


def test_the_next_network_is_another_stretch() -> None:
    _, last = stretch(ip_network("192.0.2.0/24"))
    assert last < (sortable("192.0.3.0") or "")


@pytest.mark.parametrize("text", [None, "", "localhost", "192.0.2.256", "fe80::1%"])
def test_what_is_no_address_is_nowhere(text: str | None) -> None:
    assert sortable(text) is None
