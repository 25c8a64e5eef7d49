"""The outside world of a lab: an HTTP server at 203.0.113.10:80 that answers with the address it was called from.

What a pod sees there is what the internet would see of it: the node's address, when natOutgoing is on.
"""

from __future__ import annotations

import http.server
import socketserver

from podwire.kernel import netns


class _Echo(http.server.BaseHTTPRequestHandler):
    """GET anything: the client's address and a newline."""

    timeout = 10
    server_version = "podwire-outside"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the client's address."""
        body = f"{self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """The bare address: a look-up of its name would wait for a name server that is not there."""
        return str(self.client_address[0])


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread a call, so that one silent client does not hold up the others."""

    allow_reuse_address = True
    daemon_threads = True


def run(space: int) -> None:
    """Serve for ever inside the namespace `space`."""
    server = netns.run_inside(space, lambda: _Server(("0.0.0.0", 80), _Echo))
    server.serve_forever(poll_interval=3600)
