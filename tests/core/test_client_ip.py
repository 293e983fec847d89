"""One form for each address, and sort keys with their ranges for networks."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.client_ip import to_sort_key, to_sort_key_range, unmap


@given(st.ip_addresses(), st.integers(0, 128))
def test_sort_key_of_address_is_in_range_of_its_network(ip: object, bits: int) -> None:
    address = ip_address(str(ip))
    network = ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    first, last = to_sort_key_range(network)
    assert first <= (to_sort_key(str(address)) or "") <= last


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_sort_keys_are_in_numeric_order(one: object, other: object) -> None:
    texts = [to_sort_key(str(one)) or "", to_sort_key(str(other)) or ""]
    numbers = [int(ip_address(str(one))), int(ip_address(str(other)))]
    assert (texts[0] < texts[1]) == (numbers[0] < numbers[1])


def test_ipv4_and_ipv4_mapped_address_have_the_same_sort_key() -> None:
    assert to_sort_key("192.0.2.1") == to_sort_key("::ffff:192.0.2.1")


def test_next_network_is_outside_the_range() -> None:
    _, last = to_sort_key_range(ip_network("192.0.2.0/24"))
    assert last < (to_sort_key("192.0.3.0") or "")


@pytest.mark.parametrize("text", [None, "", "localhost", "192.0.2.256", "fe80::1%"])
def test_invalid_address_has_no_sort_key(text: str | None) -> None:
    assert to_sort_key(text) is None


@pytest.mark.parametrize(
    ("text", "unmapped"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::192.0.2.1", "::c000:201"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_only_mapped_addresses_are_unmapped(text: str, unmapped: str) -> None:
    assert str(unmap(ip_address(text))) == unmapped
