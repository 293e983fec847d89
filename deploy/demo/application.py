"""The application behind the gateway: it responds with the identity headers that it received.

`python3 deploy/demo/application.py` listens on 127.0.0.1:9000; an argument is another port.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IDENTITY_HEADERS = ("X-Auth-User", "X-Auth-Session", "X-Auth-Type", "X-Auth-Scopes")


class Application(BaseHTTPRequestHandler):
    """Knows nothing of sessions."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet: in two, the second waits for a delayed ACK

    def do_GET(self) -> None:
        received = {name: self.headers.get(name) for name in IDENTITY_HEADERS}
        body = json.dumps(received, indent=2).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    with ThreadingHTTPServer(("127.0.0.1", port), Application) as server:
        server.daemon_threads = True
        server.serve_forever()


if __name__ == "__main__":
    main()
