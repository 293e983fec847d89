"""Parsing and formatting of listen addresses."""

import pytest

from sidegate.core.address import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7080", Address("127.0.0.1", 7080)),
        ("[::1]:0", Address("::1", 0)),
        (":7080", Address("", 7080)),
        ("unix:/run/gate.sock", Address(path="/run/gate.sock")),
        ("fd:3", Address(fd=3)),
    ],
)
def test_address_round_trips_through_text(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7080",
        "host",
        "host:",
        "host:70800",
        "::1:80",
        "unix:gate.sock",
        "a b:1",
        "fd:",
        "fd:-1",
    ],
)
def test_malformed_address_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Address.parse(text)
