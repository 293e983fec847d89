"""Show what Sidegate does, with seven real requests. Run it by `./dev demo [--once]`."""

import json
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from processes import Demo, StartFailed, start_demo


@dataclass(frozen=True)
class Response:
    """A response and its duration. `identity` is what the application received, if anything."""

    status: int
    document: Any
    milliseconds: float

    @property
    def identity(self) -> Mapping[str, str | None] | None:
        return self.document if self.status == 200 else None


@dataclass
class Tour:
    """Sends the requests, prints the responses, and collects failed expectations."""

    demo: Demo
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        say(f"  {'request':<46}{'status':<8}{'time':>8}   what the application received")
        self._visit("GET / without a token", {}, 401)
        token, session_id = self._create()
        bearer = {"Authorization": f"Bearer {token}"}
        self._visit("GET / with the token", bearer, 200, "alice")
        self._visit("... as a cookie", {"Cookie": f"__Host-session={token}"}, 200, "alice")
        self._visit("... and X-Auth-User: root", bearer | {"X-Auth-User": "root"}, 200, "alice")
        self._revoke(session_id)
        self._visit("GET / with the token again", bearer, 401)

    def _visit(self, what: str, headers: Mapping[str, str], status: int, user: str = "") -> None:
        """Request the application through Caddy."""
        response = send(self.demo.caddy, "GET", "/", headers)
        identity = response.identity
        received = f"X-Auth-User: {identity['X-Auth-User']}" if identity else "nothing"
        self._print(what, response, received)
        self._expect(what, response.status == status, f"{status}, not {response.status}")
        if user:
            self._expect(what, received == f"X-Auth-User: {user}", f"user {user}, not {received}")

    def _create(self) -> tuple[str, str]:
        document = {"user_id": "alice", "type": "web", "scopes": ["read"]}
        response = self._admin("create: POST /v1/sessions", "/v1/sessions", document, 201)
        if response.status != 201:
            return "", ""
        return response.document["token"], response.document["session"]["id"]

    def _revoke(self, session_id: str) -> None:
        path = f"/v1/sessions/{session_id}/revoke"
        self._admin("revoke: POST /v1/sessions/.../revoke", path, {}, 200)

    def _admin(self, what: str, path: str, document: object, status: int) -> Response:
        headers = {
            "Authorization": f"Bearer {self.demo.api_key}",
            "Content-Type": "application/json",
        }
        response = send(self.demo.admin, "POST", path, headers, json.dumps(document))
        self._print(what, response, "")
        self._expect(what, response.status == status, f"{status}, not {response.status}")
        return response

    def _print(self, what: str, response: Response, received: str) -> None:
        duration = f"{response.milliseconds:>5.1f} ms"
        say(f"  {what:<46}{response.status:<8}{duration}   {received}".rstrip())

    def _expect(self, what: str, fulfilled: bool, expected: str) -> None:
        if not fulfilled:
            self.failures.append(f"{what}: expected {expected}")


def send(
    port: int, method: str, path: str, headers: Mapping[str, str], body: str | None = None
) -> Response:
    """Send a request on a connection of its own and return the response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    started = time.perf_counter()
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    text = response.read()
    milliseconds = (time.perf_counter() - started) * 1000
    connection.close()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    return Response(response.status, document, milliseconds)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_examples(demo: Demo) -> None:
    """Print requests to try by hand."""
    say(f"""
Everything is running. Try it from another terminal; Ctrl-C here stops it.

  curl -s -H "Authorization: Bearer $(cat {demo.api_key_file})" \\
       -H 'Content-Type: application/json' -d '{{"user_id": "bob"}}' \\
       http://127.0.0.1:{demo.admin}/v1/sessions

  curl -i -H 'Authorization: Bearer TOKEN' http://127.0.0.1:{demo.caddy}/    (TOKEN: see above)

  curl -s http://127.0.0.1:{demo.ops}/metrics | grep sidegate_checks""")


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--once"]):
        say("usage: ./dev demo [--once]")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    with start_demo() as demo:
        say(
            f"\nSidegate (:{demo.gate}, admin :{demo.admin}, ops :{demo.ops}) and Caddy "
            f"(:{demo.caddy}) before an application (:{demo.application}), "
            f"up in {time.monotonic() - started:.1f} s\n"
        )
        tour = Tour(demo)
        tour.run()
        if tour.failures:
            say("\nUnexpected responses:\n  " + "\n  ".join(tour.failures))
            return 1
        if not arguments:
            print_examples(demo)
            signal.pause()
    say("\nAll responses were as expected.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StartFailed as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        say("")
        sys.exit(0)
