"""A registry that speaks MLflow's protocol over HTTP, as far as serving asks, and can be away in every way."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from services import ports

MODES = ("away", "hangs", "page", "empty", "other", "fails", "garbled")
"""Ways of not answering: no such port; silence; a login page; {}; another model; status 500; half a number."""
SLOW, SLOW_S = "slow", 2.0
"""A mode of answering rightly, but late; and how late, in seconds."""


class Registry:
    """Versions and champions in memory; artifacts are folders of this machine."""

    def __init__(self) -> None:
        self.champions: dict[str, int] = {}
        self.versions: dict[tuple[str, int], dict[str, Any]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.is_read_only = False
        self.asked: Counter[str] = Counter()
        self.mode = ""
        self.port = ports.find("127.0.0.1", 0, "--port")
        self._server: ThreadingHTTPServer | None = None
        self.be("")

    @property
    def uri(self) -> str:
        """What MLFLOW_TRACKING_URI must be."""
        return f"http://127.0.0.1:{self.port}"

    def be(self, mode: str) -> None:
        """Answers, or is away in one of the MODES, or SLOW."""
        self.mode = mode
        if (mode == "away") != (self._server is None):
            self.close() if self._server else self._open()

    def register(self, name: str, version: int, folder: Path, digest: str) -> None:
        """Adds a version and makes it the champion."""
        tags = [{"key": "eagerly.digest", "value": digest}]
        facts = {"name": name, "version": str(version), "source": str(folder), "run_id": f"run-{version}", "tags": tags}
        self.versions[name, version] = facts
        self.champions[name] = version

    def answer(self, path: str, asked: dict[str, str]) -> tuple[int, str]:
        """The status and body of an answer."""
        name, version = asked.get("name", ""), asked.get("version", "")
        self.asked[path.rpartition("/mlflow/")[2]] += 1
        if self.mode == "hangs":
            time.sleep(30)
        if self.mode == SLOW:
            time.sleep(SLOW_S)
        if self.mode == "fails":
            return 500, "Internal Server Error"
        if self.mode in ("page", "empty"):
            return 200, {"page": "<html>Please log in</html>", "empty": "{}"}[self.mode]
        if path.endswith("set-tag"):
            if self.is_read_only:
                return 403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "read only"})
            self.tags.setdefault(name, {})[asked["key"]] = asked["value"]
            return 200, "{}"
        if path.endswith("registered-models/get"):
            if name not in self.champions:
                return 404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {name}"})
            number = "0x7" if self.mode == "garbled" else str(self.champions[name])
            aliases = [{"alias": "champion", "version": number}]
            model = {"name": "other" if self.mode == "other" else name, "creation_timestamp": 1, "aliases": aliases}
            model["tags"] = [{"key": key, "value": value} for key, value in self.tags.get(name, {}).items()]
            return 200, json.dumps({"registered_model": model})
        return 200, json.dumps({"model_version": self.versions[name, int(version)]})

    def close(self) -> None:
        """Answers no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _open(self) -> None:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                words = {key: found[0] for key, found in parse_qs(urlparse(self.path).query).items()}
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                status, text = registry.answer(urlparse(self.path).path, {**body, **words})
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET  # noqa: N815 - the name is http.server's

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self._server = server
