"""A stand-in for the dashboard of every Ray cluster: remembers what it is asked to serve and says that it runs."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Dashboard(BaseHTTPRequestHandler):
    """Answers the operator; nothing runs."""

    applications: dict[str, Any] = {}  # noqa: RUF012 (shared by all requests on purpose)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/api/serve/applications"):
            running = {"status": "RUNNING", "deployments": {"endpoint": {"name": "endpoint", "status": "HEALTHY"}}}
            self._answer({"applications": {name: {"name": name, **running} for name in self.applications}})
        elif path.startswith("/api/jobs/"):
            job = path.rstrip("/").rsplit("/", 1)[-1]
            ended = {"status": "SUCCEEDED", "message": "", "start_time": 1, "end_time": 2, "entrypoint": ""}
            self._answer({"submission_id": job, "job_id": job, **ended})
        else:
            self.send_error(404)

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        self.applications.update({one["name"]: one for one in body.get("applications", [])})
        self._answer({})

    do_POST = do_PUT  # noqa: N815

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    print(f"127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
