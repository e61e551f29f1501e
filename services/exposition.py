"""The metrics port: answers GET /metrics for all replicas of this node and endpoint.

Replicas share the port (SO_REUSEPORT), so one scrape reaches one of them, which adds up the figures of all.
"""

import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST

from services.metrics import scrape


class MetricsServer(ThreadingHTTPServer):
    """Serves one folder of metrics, on threads of its own."""

    allow_reuse_port = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, folder: Path) -> None:
        """Binds the port and begins to answer; port 0 takes a free one."""
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
        super().__init__((str(place[0]), port), _Handler)
        self.folder = folder
        threading.Thread(target=self.serve_forever, args=(0.1,), name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that was bound."""
        return self.server_address[1]

    def close(self) -> None:
        """Stops answering and frees the port."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection; a slow one is dropped."""

    timeout = 5

    def do_GET(self) -> None:
        """Sends the figures, or 404 for any other path."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, explain="only /metrics is here")
            return
        assert isinstance(self.server, MetricsServer)
        body = scrape(self.server.folder)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Names no versions to strangers."""
        return "eagerly"

    def log_message(self, format: str, *args: object) -> None:
        """Keeps scrapes out of the log."""
