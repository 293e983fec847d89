"""The limits of ops and admin: from their settings, and never more than the open files allow."""

import http.client
import socket
from contextlib import ExitStack, closing
from http import HTTPStatus
from pathlib import Path

import pytest

from sidegate.observability.metrics import Metrics
from sidegate.runtime.file_limits import fit_shared
from sidegate.runtime.listener_options import build_listener_options
from sidegate.settings.sections import AdminSection, OpsSection
from tests.cli.test_cli import run_server
from tests.runtime.test_file_limits import get_status
from tests.support.processes import START_TIMEOUT, find_free_port


@pytest.mark.parametrize(
    ("total", "limit", "fitting"),
    [(250, 20_000, 250), (250, 1024, 128), (1000, 1024, 128), (1000, 6000, 750), (250, 4, 1)],
)
def test_connections_are_at_most_an_eighth_of_the_open_files(
    total: int, limit: int, fitting: int
) -> None:
    assert fit_shared(total, limit=limit) == fitting


@pytest.mark.parametrize("section", [OpsSection(), AdminSection()])
def test_options_are_those_of_the_settings(section: OpsSection | AdminSection) -> None:
    metrics = Metrics(version="1.2.3", revocation_bound=5.0)
    options = build_listener_options("ops", section, metrics=metrics)

    limits = options["limits"]
    assert (limits.total, limits.per_peer) == (
        section.max_connections,
        section.max_connections_per_peer,
    )
    assert limits.protects_others
    assert options["timeouts"].idle == section.idle_timeout.total_seconds()
    options["on_full"]()
    options["on_evicted"]()
    assert metrics.connections_over_limit == {("ops", "refused"): 1, ("ops", "evicted"): 1}


def test_peer_has_no_more_connections_than_all_peers() -> None:
    section = OpsSection(max_connections=5, max_connections_per_peer=100)
    metrics = Metrics(version="1.2.3", revocation_bound=5.0)

    assert build_listener_options("ops", section, metrics=metrics)["limits"].per_peer == 5


def test_idle_connections_to_ops_leave_files_for_the_gate(tmp_path: Path) -> None:
    gate, ops = find_free_port(), find_free_port()
    listen = {
        "SIDEGATE_GATE__LISTEN": f"127.0.0.1:{gate}",
        "SIDEGATE_OPS__LISTEN": f"127.0.0.1:{ops}",
    }
    limited = ["sh", "-c", 'ulimit -n 160 && exec "$@"', "sh"]
    with run_server(tmp_path, wrapper=limited, **listen) as process, ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", ops), START_TIMEOUT))

        assert get_status(ops, "/readyz") == HTTPStatus.OK
        with closing(http.client.HTTPConnection("127.0.0.1", gate, timeout=START_TIMEOUT)) as http_:
            http_.request("GET", "/auth-request")
            assert http_.getresponse().status == HTTPStatus.UNAUTHORIZED
        process.terminate()
