"""A tracking store that refuses, or is not there, is one sentence within seconds, whatever the verb."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eagerly.cli import main
from pipelines import tracking

MODELS = ("list", "list sentiment", "show sentiment", "gate sentiment 2", "promote sentiment 2", "rollback sentiment")
JOBS = ("list", "status night", "logs night")
ROLLOUTS = ("start sentiment --to 2 --shadow 10%", "status sentiment", "promote sentiment", "abort sentiment")
VERBS = {"models": MODELS, "jobs": JOBS, "rollout": ROLLOUTS}
LINES = [f"{verb} {words}" for verb, lines in VERBS.items() for words in lines]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster that could be asked instead, and MLflow's patience as this process has it when it starts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", *tracking.IMPATIENT):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


class Refusing(ThreadingHTTPServer):
    """A server that answers everything with one status, and counts."""

    def __init__(self, status: int) -> None:
        self.asked = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET  # noqa: N815 - the name that the server calls

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    server = Refusing(request.param)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("refusing", [401, 403], indirect=True)
def test_a_store_that_refuses_is_one_sentence(
    line: str, refusing: Refusing, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    said = last_line(capsys)
    assert said.startswith(
        f"eagerly: MLflow at http://127.0.0.1:{refusing.server_port} refuses the credentials (status "
    )
    assert "MLFLOW_TRACKING_USERNAME" in said
    assert refusing.asked == 1


@pytest.mark.parametrize("refusing", [503], indirect=True)
def test_a_store_that_cannot_answer_now_is_asked_twice(refusing: Refusing, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 2
    assert " does not answer (" in last_line(capsys)
    assert refusing.asked == 2


@pytest.mark.parametrize("line", ["models list", "models promote sentiment 2", "rollout status sentiment", "jobs list"])
def test_a_store_that_is_not_there_is_one_sentence_that_tells_no_password(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@{place}")
    began = time.monotonic()
    assert main(line.split()) == 2
    said = last_line(capsys)
    assert said.startswith(f"eagerly: MLflow at http://{place} does not answer (")
    assert "secret" not in said
    assert time.monotonic() - began < 60, "MLflow's own patience is four minutes"
