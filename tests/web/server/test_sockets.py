"""An address that several processes share: who has it, who listens, and who is asked."""

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


@pytest.fixture(params=["127.0.0.1", "::1", ""], ids=["v4", "v6", "everywhere"])
def port(request: pytest.FixtureRequest) -> Iterator[SharedListener]:
    shared = SharedListener.open(Address(request.param, 0))
    yield shared
    shared.close()


def inherited(shared: SharedListener) -> socket.socket:
    """Return what a process that is started now has."""
    with shared.lent() as descriptor:
        return socket.socket(fileno=os.dup(descriptor))


def reached(listener: socket.socket) -> bool:
    """Say whether a client gets through to where this socket is bound."""
    with socket.socket(listener.family) as client:
        return client.connect_ex(listener.getsockname()) == 0


def test_all_processes_share_the_port_that_the_system_chose(port: SharedListener) -> None:
    with inherited(port) as one, inherited(port) as another:
        one.listen()
        another.listen()
        assert one.getsockname() == another.getsockname()


def test_nobody_waits_at_a_port_where_nobody_listens(port: SharedListener) -> None:
    with inherited(port) as one:
        assert not reached(one)
        one.listen()
        assert reached(one)


def test_nobody_else_gets_the_port_while_nobody_listens(port: SharedListener) -> None:
    with inherited(port) as ours, socket.socket(ours.family) as other:
        address = ours.getsockname()
        ours.close()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            other.bind(address)


def test_the_port_is_taken_for_others_who_would_share_it(port: SharedListener) -> None:
    with inherited(port) as ours:
        host, number, *_ = ours.getsockname()
        for listens in (False, True):
            if listens:
                ours.listen()
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                SharedListener.open(Address(host, number))


async def test_a_process_that_closes_leaves_the_others_their_unix_socket(tmp_path: Path) -> None:
    async def shut_door(_: object) -> web.Response:
        return web.Response()

    path = str(tmp_path / "gate.sock")
    shared = SharedListener.open(Address(path=path))
    doors = [Listener("gate", shut_door, on_bad_request=lambda: None) for _ in range(2)]
    for door in doors:
        with shared.lent() as descriptor:
            await door.open(Address(inherited=os.dup(descriptor)))
    await doors[0].close(patience=0)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await doors[1].close(patience=0)
    shared.close()

    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_whoever_lives_gets_what_the_dead_would_have_got(port: SharedListener) -> None:
    with inherited(port) as dead, inherited(port) as alive, ExitStack() as clients:
        dead.listen()
        alive.listen(20)
        dead.close()
        for _ in range(20):
            client = clients.enter_context(socket.socket(alive.family))
            client.connect(alive.getsockname())
        alive.settimeout(5)
        for _ in range(20):
            alive.accept()[0].close()


def test_a_successor_listens_at_the_same_port(port: SharedListener) -> None:
    with inherited(port) as dead:
        dead.listen()
        address = dead.getsockname()
    with inherited(port) as successor:
        successor.listen()
        assert successor.getsockname() == address
        assert reached(successor)


def test_whoever_inherits_goes_on_when_we_leave(port: SharedListener) -> None:
    with inherited(port) as one:
        one.listen()
        port.leave()
        assert reached(one)


def test_a_unix_socket_is_one_for_all_until_the_last_has_left(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    shared = SharedListener.open(Address(path=str(path)))
    with inherited(shared) as one, inherited(shared) as last, socket.socket(socket.AF_UNIX) as late:
        shared.leave()
        one.close()
        assert reached(last)
        last.close()
        with pytest.raises(ConnectionRefusedError):
            late.connect(str(path))

    shared.close()

    assert not path.exists()


def test_an_address_that_is_taken_is_not_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        SharedListener.open(Address(*taken.getsockname()))
