"""How jobs go on is read from the end of their logs, whatever people's lines come between and however long they are."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from eagerly import cli
from pipelines import job_log, jobs

HERE = Path(__file__).resolve().parent
SERVED = "http://mlflow:5000/#/experiments/3/runs/0123abcd"
LOGS: dict[str, list[str]] = {
    "logged": [job_log.line({"phase": "training", "mlflow": "0123abcd", "link": SERVED})],
    "filed": [
        job_log.line({"phase": "training", "mlflow": "4567ef01", "link": "4567ef01 in sqlite:///mlflow.db (...)"})
    ],
    "trained": [job_log.line({"phase": "failed", "unrecorded": str(HERE)})],
    "elsewhere": [job_log.line({"phase": "failed", "unrecorded": "/not/here"})],
    "quiet": [job_log.line({"phase": "training", "step": 3, "steps": 9}), "one line", job_log.MARK + '{"phase": "tra'],
    "chatty": [job_log.line({"phase": "training", "step": 4, "steps": 9}), *["so much"] * 1000],
    "endless": [job_log.line({"phase": "training", "step": 5, "steps": 9}), *["so much"] * 100_000],
    "mute": ["nothing for programs"],
    "queued": [job_log.line({"phase": "waiting", "position": 2})],
    "roomless": [job_log.line({"phase": "waiting", "position": 0, "waits_for": "waiting for 4 CPUs: there are 2"})],
    "stopped": [job_log.line({"phase": "stopped", "position": 2})],
}


class Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray's dashboard does to what lists jobs; refuses to give a whole log."""

    lines_sent = 0

    def do_GET(self) -> None:
        path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/api/v0/logs/file":
            assert asked["node_id"] == ["n1"]
            name = asked["filename"][0].removeprefix("job-driver-").removesuffix(".log")
            lines = LOGS[name][-int(asked["lines"][0]) :]
            Dashboard.lines_sent += len(lines)
            return self._say("\n".join(lines))
        version = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "session"}
        job = {"type": "SUBMISSION", "status": "RUNNING", "entrypoint": "", "start_time": 1000, "driver_node_id": "n1"}
        listed = [{**job, "submission_id": name, "metadata": {"eagerly_name": name}} for name in LOGS]
        for failed in listed[2:4]:
            failed |= {"status": "FAILED", "end_time": 2000, "message": "failed with exit code 1\nTraceback"}
            failed["metadata"] |= {"eagerly_task": "sentiment"}
        listed[-1] |= {"status": "STOPPED", "end_time": 2000}
        listed[-1]["metadata"] |= {"eagerly_task": "./tides", "eagerly_folder": str(HERE / "tides")}
        answers = {"/api/version": version, "/api/v0/cluster_metadata": {"data": {"pythonVersion": "3.11.7"}}}
        return self._say(json.dumps({**answers, "/api/jobs/": listed}[path]))

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[jobs.Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield jobs.connect(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def test_a_bounded_end_of_each_log_says_how_the_jobs_go_on(there: jobs.Cluster) -> None:
    steps = {job.name: there.heard(job).said.get("step") for job in there.jobs()}
    assert {name: step for name, step in steps.items() if step is not None} == {"quiet": 3, "chatty": 4}
    assert set(steps) == set(LOGS)
    assert Dashboard.lines_sent <= len(LOGS) * sum(jobs.TAILS)


def test_the_list_says_when_jobs_were_submitted_and_where_those_that_wait_stand(
    there: jobs.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["jobs", "list", "--address", there.address]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "place 2 in the queue" in lines["queued"] and "queue" not in lines["stopped"]
    assert "waiting for 4 CPUs: there are 2" in lines["roomless"]
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1)) in lines["mute"]


def test_a_task_of_ones_own_is_named_in_the_next_steps_so_that_they_work_here(
    there: jobs.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, word in ((HERE, "./tides"), (tmp_path, str(HERE / "tides"))):
        monkeypatch.chdir(folder)
        assert cli.main(["jobs", "status", "stopped", "--address", there.address]) == 0
        assert f"eagerly submit {word} --name stopped --again\n" in capsys.readouterr().out


def test_the_list_and_the_status_say_where_a_job_is_in_mlflow(
    there: jobs.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["jobs", "list", "--address", there.address]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert lines["logged"].endswith(f"  {SERVED}") and lines["filed"].endswith("  4567ef01")
    assert lines["job"].endswith("MLflow run") and "next       eagerly jobs status " in shown
    for name, link in (("logged", SERVED), ("filed", "4567ef01 in sqlite:///mlflow.db (...)")):
        assert cli.main(["jobs", "status", name, "--address", there.address]) == 0
        assert f"\nMLflow run {link}\n" in capsys.readouterr().out


def test_a_job_that_trained_and_lacks_its_record_alone_says_so_and_how_to_record_it(
    there: jobs.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, way in (
        ("trained", f"eagerly record {HERE}"),
        ("elsewhere", "eagerly submit sentiment --name elsewhere"),
    ):
        assert cli.main(["jobs", "status", name, "--address", there.address]) == 0
        shown = capsys.readouterr().out
        assert "reason     trained; not recorded" in shown and "Traceback" not in shown
        assert f"next       {way}" in shown


def test_a_job_that_has_ended_is_not_stopped_and_says_what_comes_next(
    there: jobs.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["jobs", "stop", "stopped", "--address", there.address]) == 0
    shown = capsys.readouterr().out
    assert "stopped is stopped already\nnext       eagerly jobs status stopped\n" in shown


def test_people_are_shown_what_is_not_for_programs() -> None:
    assert job_log.for_people(LOGS["quiet"]) == ["one line"]
