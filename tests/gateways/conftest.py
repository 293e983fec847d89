"""One Sidegate, one upstream and one of each gateway serve the whole run."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.gateways.launch import GATEWAYS, start_gateway
from tests.processes import (
    Child,
    Server,
    free_port,
    listens,
    python_module,
    start_on_a_free_port,
    temporary_directory,
)
from tests.sidegate import ROOT, Sidegate, start_sidegate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def sidegate() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        sidegate = start_sidegate(directory)
        yield sidegate
        sidegate.server.stop()


@pytest.fixture(scope="session")
def upstream() -> Iterator[Server]:
    with temporary_directory() as directory:

        def launch(port: int) -> Server:
            command = python_module("tests.gateways.upstream", str(port))
            place = {"PYTHONPATH": str(ROOT)}
            child = Child(
                "upstream",
                command,
                directory,
                lambda: listens(port),
                environment=place,
                demoted=False,
            )
            return Server("upstream", port, f"http://127.0.0.1:{port}", child)

        server = start_on_a_free_port(launch, None)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def start(upstream: Server) -> Iterator[Callable[[str, str], Server]]:
    """Start a gateway by its name and Sidegate's address, or return the one that runs already.

    Not a parametrized fixture: pytest keeps one value of those, and tests come in any order.
    """
    with ExitStack() as stack:

        @cache
        def start(name: str, sidegate: str) -> Server:
            directory = stack.enter_context(temporary_directory())
            server = start_gateway(name, directory, sidegate=sidegate, upstream=upstream.address)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(params=list(GATEWAYS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway(name: str, sidegate: Sidegate, start: Callable[[str, str], Server]) -> int:
    """The port of a gateway that asks Sidegate."""
    return start(name, sidegate.address).port


@pytest.fixture
def bereft_gateway(name: str, start: Callable[[str, str], Server]) -> int:
    """The port of a gateway that asks where nobody listens."""
    return start(name, _nowhere()).port


@cache
def _nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def token(sidegate: Sidegate) -> str:
    """A token of alice's that opens for the whole run."""
    return sidegate.create_session()[0]
