"""The connections of a listener by peer, and which may be closed for a new one."""

import pytest

from sidegate.web.server.connection_table import UNIX_PEER, ConnectionTable, get_peer


def build_table(total: int, per_peer: int, **connections: int) -> ConnectionTable[str]:
    """Return a table with this number of connections of each peer, named a1, a2, ..., b1."""
    table = ConnectionTable[str](max_connections=total, max_per_peer=per_peer)
    for peer, count in connections.items():
        for number in range(1, count + 1):
            table.add(f"{peer}{number}", peer)
    return table


@pytest.mark.parametrize(
    ("total", "per_peer", "connections", "full_for_a", "full_for_c"),
    [
        (4, 2, {}, False, False),
        (4, 2, {"a": 1}, False, False),
        (4, 2, {"a": 2}, True, False),
        (4, 2, {"a": 1, "b": 2}, False, False),
        (4, 2, {"a": 2, "b": 2}, True, True),
        (3, 2, {"a": 1, "b": 2}, True, True),
    ],
)
def test_limits_are_those_of_a_peer_and_of_all(
    total: int, per_peer: int, connections: dict[str, int], full_for_a: bool, full_for_c: bool
) -> None:
    table = build_table(total, per_peer, **connections)

    assert len(table) == sum(connections.values())
    assert (table.is_full_for("a"), table.is_full_for("c")) == (full_for_a, full_for_c)


def test_longest_idle_of_the_peer_at_its_limit_is_removed() -> None:
    table = build_table(100, 3, b=3, a=3)

    assert table.remove_idle_for("a") == "a1"
    assert not table.is_full_for("a")
    assert table.is_full_for("b")


def test_longest_idle_of_the_largest_peer_is_removed_at_the_limit_of_all() -> None:
    table = build_table(6, 4, a=1, b=3, c=2)

    assert table.remove_idle_for("a") == "b1"


def test_busy_connection_is_not_removed() -> None:
    table = build_table(100, 3, a=3)
    table.set_busy("a1", busy=True)

    assert table.remove_idle_for("a") == "a2"


def test_connection_is_idle_since_its_last_response() -> None:
    table = build_table(100, 3, a=3)
    for busy in (True, False):
        table.set_busy("a1", busy=busy)

    assert [table.remove_idle_for("a")] == ["a2"]


def test_nothing_is_removed_while_all_are_busy() -> None:
    table = build_table(2, 2, a=1, b=1)
    for connection in ("a1", "b1"):
        table.set_busy(connection, busy=True)

    assert table.remove_idle_for("c") is None
    assert table.is_full_for("c")


def test_busy_peer_is_not_helped_at_the_cost_of_another() -> None:
    table = build_table(100, 2, a=2, b=2)
    for connection in ("a1", "a2"):
        table.set_busy(connection, busy=True)

    assert table.remove_idle_for("a") is None


def test_removed_connection_may_be_removed_again_and_end_its_request() -> None:
    table = build_table(100, 1, a=1)
    assert table.remove_idle_for("a") == "a1"

    table.set_busy("a1", busy=False)
    table.remove("a1")

    assert len(table) == 0
    assert not table.is_full_for("a")


def test_unix_socket_has_no_limit_of_a_peer() -> None:
    table = ConnectionTable[int](max_connections=3, max_per_peer=1)
    for number in range(3):
        assert not table.is_full_for(UNIX_PEER)
        table.add(number, UNIX_PEER)

    assert table.is_full_for(UNIX_PEER)
    assert table.remove_idle_for(UNIX_PEER) == 0


@pytest.mark.parametrize(
    ("peername", "peer"),
    [
        (("127.0.0.1", 1234), "127.0.0.1"),
        (("::1", 1234, 0, 0), "::1"),
        ("", UNIX_PEER),
        ("/run/client.sock", UNIX_PEER),
        (None, UNIX_PEER),
    ],
)
def test_peer_is_the_address_without_the_port(peername: object, peer: str) -> None:
    assert get_peer(peername) == peer
