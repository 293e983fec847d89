"""An address shared by several processes: reserving, listening, accepting."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from sidegate.core.address import Address
from sidegate.web.server.listener import Listener
from sidegate.web.server.sockets import SharedListener


@pytest.fixture(params=["127.0.0.1", "::1", "", "::"], ids=["v4", "v6", "every", "every-v6"])
def port(request: pytest.FixtureRequest) -> Iterator[SharedListener]:
    shared = SharedListener.open(Address(request.param, 0))
    yield shared
    shared.close()


def inherit_socket(shared: SharedListener) -> socket.socket:
    """Return the socket that a process started now inherits."""
    with shared.lend_descriptor() as descriptor:
        return socket.socket(fileno=os.dup(descriptor))


def is_reachable(listener: socket.socket) -> bool:
    """Return whether a client can connect to the address of this socket."""
    with socket.socket(listener.family) as client:
        return client.connect_ex(listener.getsockname()) == 0


def test_all_processes_share_the_port_that_the_system_chose(port: SharedListener) -> None:
    with inherit_socket(port) as one, inherit_socket(port) as another:
        one.listen()
        another.listen()
        assert one.getsockname() == another.getsockname()


def test_connection_is_refused_until_a_process_listens(port: SharedListener) -> None:
    with inherit_socket(port) as one:
        assert not is_reachable(one)
        one.listen()
        assert is_reachable(one)


def test_reserved_port_cannot_be_bound_by_others(port: SharedListener) -> None:
    with inherit_socket(port) as inherited, socket.socket(inherited.family) as other:
        address = inherited.getsockname()
        inherited.close()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            other.bind(address)


def test_reserved_port_cannot_be_shared_by_another_deployment(port: SharedListener) -> None:
    with inherit_socket(port) as inherited:
        host, number, *_ = inherited.getsockname()
        for listens in (False, True):
            if listens:
                inherited.listen()
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                SharedListener.open(Address(host, number))


async def test_closing_listener_leaves_the_unix_socket_to_others(tmp_path: Path) -> None:
    async def respond(_: object) -> web.Response:
        return web.Response()

    path = str(tmp_path / "gate.sock")
    shared = SharedListener.open(Address(path=path))
    listeners = [Listener("gate", respond, on_bad_request=lambda: None) for _ in range(2)]
    for listener in listeners:
        with shared.lend_descriptor() as descriptor:
            await listener.open(Address(fd=os.dup(descriptor)))
    await listeners[0].close(drain_timeout=0)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    response = await reader.read()
    writer.close()
    await listeners[1].close(drain_timeout=0)
    shared.close()

    assert response.startswith(b"HTTP/1.1 200 OK")


def test_running_process_gets_the_connections_of_an_ended_one(port: SharedListener) -> None:
    with inherit_socket(port) as ended, inherit_socket(port) as running, ExitStack() as clients:
        ended.listen()
        running.listen(20)
        ended.close()
        for _ in range(20):
            client = clients.enter_context(socket.socket(running.family))
            client.connect(running.getsockname())
        running.settimeout(5)
        for _ in range(20):
            running.accept()[0].close()


def test_replacement_listens_on_the_same_port(port: SharedListener) -> None:
    with inherit_socket(port) as ended:
        ended.listen()
        address = ended.getsockname()
    with inherit_socket(port) as successor:
        successor.listen()
        assert successor.getsockname() == address
        assert is_reachable(successor)


def test_inherited_socket_listens_after_a_release(port: SharedListener) -> None:
    with inherit_socket(port) as one:
        one.listen()
        port.release()
        assert is_reachable(one)


def test_unix_socket_accepts_until_the_last_process_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    shared = SharedListener.open(Address(path=str(path)))
    with (
        inherit_socket(shared) as one,
        inherit_socket(shared) as last,
        socket.socket(socket.AF_UNIX) as late,
    ):
        shared.release()
        one.close()
        assert is_reachable(last)
        last.close()
        with pytest.raises(ConnectionRefusedError):
            late.connect(str(path))

    shared.close()

    assert not path.exists()


def test_address_in_use_cannot_be_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        SharedListener.open(Address(*taken.getsockname()))


# --- Every address


@pytest.mark.parametrize("text", [":0", "[::]:0"])
async def test_listener_at_every_address_takes_both_families(text: str) -> None:
    async def respond(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    listener = Listener("test", respond, on_bad_request=lambda: None)
    address = await listener.open(Address.parse(text))
    for host in ("127.0.0.1", "::1"):
        _, writer = await asyncio.open_connection(host, address.port)
        writer.close()
        await writer.wait_closed()
    await listener.close(drain_timeout=0)


@pytest.mark.parametrize("text", [":0", "[::]:0"])
async def test_processes_at_every_address_take_both_families(text: str) -> None:
    shared = SharedListener.open(Address.parse(text))
    with inherit_socket(shared) as one:
        one.listen()
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as client:
                assert client.connect_ex((host, one.getsockname()[1])) == 0
    shared.close()
