"""Parsing and formatting of listen addresses."""

import pytest

from sidegate.core.address import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7080", Address("127.0.0.1", 7080)),
        ("[::1]:0", Address("::1", 0)),
        (":7080", Address("", 7080)),
        ("[::ffff:10.0.0.5]:80", Address("::ffff:10.0.0.5", 80)),
        ("sidegate_1:80", Address("sidegate_1", 80)),
        (
            "sidegate.default.svc.cluster.local.:80",
            Address("sidegate.default.svc.cluster.local.", 80),
        ),
        ("3com.example:80", Address("3com.example", 80)),
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
        "-a:1",
        "a-:1",
        "a..b:1",
        ".:1",
        "a\n:1",
        'a;b{}":1',
        "a{env.HOME}:1",
        "$http_host:1",
        "ä.example:1",
        f"{'a' * 64}:1",
        f"{'a.' * 128}a:1",
        "300.0.0.1:1",
        "10.0.0.05:1",
        "127.1:1",
        "0x7f.1:1",
        "0:1",
        "[:::]:1",
        "[1.2.3.4]:1",
        "[fe80::1%eth0]:1",
        "[]:1",
        "unix:/run/a\0.sock",
        "fd:",
        "fd:-1",
    ],
)
def test_malformed_address_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Address.parse(text)
