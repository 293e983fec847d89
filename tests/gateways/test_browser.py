"""A browser opens a WebSocket with the token as a subprotocol: it cannot set other headers."""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tests.support.processes import child_user, chown_to_child_user, find_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.sidegate import Created

TIMEOUT = 60.0  # seconds, for a busy machine

# Reports the chosen subprotocol and the first message, or "failed".
PAGE = """<!doctype html><body><script>
const report = (text) => fetch(REPORT + encodeURIComponent(text), {mode: "no-cors"});
const socket = new WebSocket(ADDRESS, PROTOCOLS);
socket.onopen = () => socket.send("hello");
socket.onmessage = (event) => report(socket.protocol + " | " + event.data);
socket.onerror = () => report("failed");
</script></body>"""


@contextmanager
def receive_reports() -> Iterator[tuple[str, Queue[str]]]:
    """Yield the URL to which a page sends its reports, and the reports."""
    reports: Queue[str] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reports.put(unquote(self.path.removeprefix("/")))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", reports
        server.shutdown()


@contextmanager
def browse(page: str, directory: Path) -> Iterator[None]:
    """Show a page in a browser."""
    file = directory / "page.html"
    file.write_text(page)
    chown_to_child_user(directory)
    user = child_user()
    program = find_program("chromium-headless-shell", "/usr/bin/chromium-headless-shell")
    options = ["--no-sandbox", "--disable-gpu", f"--user-data-dir={directory}"]
    process = subprocess.Popen(
        [program, *options, "--remote-debugging-port=0", file.as_uri()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=None if user is None else user.pw_uid,
        env={"HOME": str(directory), "PATH": "/usr/bin:/bin"},
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def test_browser_opens_a_websocket_with_the_applications_protocol(
    gateway_with_all_sources: int, alice_with_all_sources: Created, workdir: Path
) -> None:
    address = f"ws://127.0.0.1:{gateway_with_all_sources}/socket"

    def open_with(*protocols: str) -> str:
        with receive_reports() as (url, reports):
            page = PAGE.replace("REPORT", json.dumps(url)).replace("ADDRESS", json.dumps(address))
            with browse(page.replace("PROTOCOLS", json.dumps(protocols)), workdir):
                return reports.get(timeout=TIMEOUT)

    assert open_with("sidegate", alice_with_all_sources.token, "chat") == "chat | alice: hello"
    assert open_with("chat") == "failed"
