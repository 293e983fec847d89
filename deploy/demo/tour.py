"""The main job of Sidegate in seven scenes, with real requests. Run it by `./dev demo [--once]`."""

import json
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from stage import Fallen, Stage, built


@dataclass(frozen=True)
class Answer:
    """What came back, and how long that took. `seen` is what the application saw, if anything."""

    status: int
    document: Any
    milliseconds: float

    @property
    def seen(self) -> Mapping[str, str | None] | None:
        return self.document if self.status == 200 else None


@dataclass
class Tour:
    """Plays the scenes and notes each that did not go as it must."""

    stage: Stage
    wrong: list[str] = field(default_factory=list)

    def play(self) -> None:
        say(f"  {'request':<46}{'answer':<8}{'time':>8}   what the application saw")
        self._visit("GET / without a token", {}, 401)
        token, session_id = self._create()
        bearer = {"Authorization": f"Bearer {token}"}
        self._visit("GET / with the token", bearer, 200, "alice")
        self._visit("... as a cookie", {"Cookie": f"__Host-session={token}"}, 200, "alice")
        self._visit("... and X-Auth-User: root", bearer | {"X-Auth-User": "root"}, 200, "alice")
        self._revoke(session_id)
        self._visit("GET / with the token, once more", bearer, 401)

    def _visit(self, what: str, headers: Mapping[str, str], status: int, user: str = "") -> None:
        """Ask Caddy for the application."""
        answer = ask(self.stage.caddy, "GET", "/", headers)
        seen = f"X-Auth-User: {answer.seen['X-Auth-User']}" if answer.seen else "nothing"
        self._note(what, answer, seen)
        self._must(what, answer.status == status, f"{status}, not {answer.status}")
        if user:
            self._must(what, seen == f"X-Auth-User: {user}", f"user {user}, not {seen}")

    def _create(self) -> tuple[str, str]:
        wanted = {"user_id": "alice", "type": "web", "scopes": ["read"]}
        answer = self._admin("create: POST /v1/sessions", "/v1/sessions", wanted, 201)
        if answer.status != 201:
            return "", ""
        return answer.document["token"], answer.document["session"]["id"]

    def _revoke(self, session_id: str) -> None:
        path = f"/v1/sessions/{session_id}/revoke"
        self._admin("revoke: POST /v1/sessions/.../revoke", path, {}, 200)

    def _admin(self, what: str, path: str, document: object, status: int) -> Answer:
        headers = {
            "Authorization": f"Bearer {self.stage.api_key}",
            "Content-Type": "application/json",
        }
        answer = ask(self.stage.admin, "POST", path, headers, json.dumps(document))
        self._note(what, answer, "")
        self._must(what, answer.status == status, f"{status}, not {answer.status}")
        return answer

    def _note(self, what: str, answer: Answer, seen: str) -> None:
        say(f"  {what:<46}{answer.status:<8}{answer.milliseconds:>5.1f} ms   {seen}".rstrip())

    def _must(self, what: str, well: bool, expected: str) -> None:
        if not well:
            self.wrong.append(f"{what}: expected {expected}")


def ask(
    port: int, method: str, path: str, headers: Mapping[str, str], body: str | None = None
) -> Answer:
    """Send a request on a connection of its own and return what came back."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    begun = time.perf_counter()
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    text = response.read()
    milliseconds = (time.perf_counter() - begun) * 1000
    connection.close()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    return Answer(response.status, document, milliseconds)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def invite(stage: Stage) -> None:
    """Say how to go on by hand."""
    say(f"""
All of it is up. Try it from another terminal; Ctrl-C here ends it.

  curl -s -H "Authorization: Bearer $(cat {stage.api_key_file})" \\
       -H 'Content-Type: application/json' -d '{{"user_id": "bob"}}' \\
       http://127.0.0.1:{stage.admin}/v1/sessions

  curl -i -H 'Authorization: Bearer TOKEN' http://127.0.0.1:{stage.caddy}/    (the answer's token)

  curl -s http://127.0.0.1:{stage.ops}/metrics | grep sidegate_checks""")


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--once"]):
        say("usage: ./dev demo [--once]")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun = time.monotonic()
    with built() as stage:
        say(
            f"\nSidegate (:{stage.gate}, admin :{stage.admin}, ops :{stage.ops}) and Caddy "
            f"(:{stage.caddy}) before an application (:{stage.application}), "
            f"up in {time.monotonic() - begun:.1f} s\n"
        )
        tour = Tour(stage)
        tour.play()
        if tour.wrong:
            say("\nThis is not as it must be:\n  " + "\n  ".join(tour.wrong))
            return 1
        if not arguments:
            invite(stage)
            signal.pause()
    say("\nEverything was as it must be.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Fallen as fallen:
        sys.exit(str(fallen))
    except KeyboardInterrupt:
        say("")
        sys.exit(0)
