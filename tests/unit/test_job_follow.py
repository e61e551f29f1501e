"""Following a job's log gives each line once, for little, until the job ends: also over outages of its dashboard."""

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import ray

from eagerly import cli
from pipelines import following, history, job_log, jobs

BEGUN_MS = 1_000_000


class Head:
    """A cluster with one job: its log, and a dashboard that can go away and come back on the same port."""

    def __init__(self) -> None:
        self.log = bytearray()
        self.state = "RUNNING"
        self.begun_ms = BEGUN_MS
        self.has_log = True
        self.python, self.ray = platform.python_version(), ray.__version__
        self.count = 0
        self.sent_bytes = 0
        self.break_after_bytes: int | None = None
        """The next log that is asked for breaks off there, and the dashboard with it."""
        self.server: ThreadingHTTPServer | None = None
        self.port = 0
        self.come()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def come(self) -> None:
        head = self

        class Dashboard(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                head.answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Says nothing."""

        ThreadingHTTPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Dashboard)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def go(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def write(self, *lines: str) -> None:
        """Appends lines as a job's supervisor does: a numbered one for programs after at most 256."""
        for line in lines:
            self.log += f"{line}\n".encode()
            self.count += 1
            if self.count % 256 == 0:
                self.log += f"{job_log.line({'phase': 'training', job_log.NUMBER: self.count})}\n".encode()

    def answer(self, call: BaseHTTPRequestHandler) -> None:
        path, asked = urlsplit(call.path).path, parse_qs(urlsplit(call.path).query)
        job = {"type": "SUBMISSION", "submission_id": "chatty", "status": self.state, "entrypoint": ""}
        job |= {"start_time": self.begun_ms, "driver_node_id": "n1", "metadata": {"eagerly_name": "chatty"}}
        if path == "/api/v0/logs/file":
            return self._end_of_log(call, int(asked["lines"][0]))
        answers = {
            "/api/version": {"version": "4", "ray_version": self.ray, "ray_commit": "", "session_name": "session"},
            "/api/v0/cluster_metadata": {"data": {"pythonVersion": self.python}},
            "/api/jobs/": [job],
            "/api/jobs/chatty": job,
        }
        return self._say(call, 200, json.dumps(answers[path]).encode())

    def _end_of_log(self, call: BaseHTTPRequestHandler, lines: int) -> None:
        if not self.has_log:
            return self._say(call, 500, b"A file is not found at: /logs")
        now = bytes(self.log)
        whole = now.splitlines(keepends=True)
        end = now if lines == job_log.ALL else b"".join(whole[-lines:])
        if self.break_after_bytes is None:
            self.sent_bytes += len(end)
            return self._say(call, 200, end)
        part, self.break_after_bytes = end[: self.break_after_bytes], None
        threading.Thread(target=self.go).start()
        return self._say(call, 200, part, len(end))

    def _say(self, call: BaseHTTPRequestHandler, status: int, body: bytes, length: int | None = None) -> None:
        call.send_response(status)
        call.send_header("Content-Length", str(len(body) if length is None else length))
        call.end_headers()
        call.wfile.write(body)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(following, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(following, "SELDOM_SECONDS", 0.05)
    there = Head()
    yield there
    there.go()


def follow(head: Head, meanwhile: Callable[[], None], *flags: str) -> int:
    """Runs `eagerly jobs logs -f` while something happens to the job."""
    other = threading.Thread(target=meanwhile)
    other.start()
    code = cli.main(["jobs", "logs", *flags, "chatty", "--address", head.address])
    other.join()
    return code


def test_a_log_that_grows_is_shown_line_by_line_and_hardly_read_again(
    head: Head, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["the same", *(f"line {number}" for number in range(40_000)), *["the same"] * 5000]
    later = [*["so much"] * 3000, *(f"later {number}" for number in range(2000)), "ends \u00fc\u2028ber"]
    head.write(*words)

    def go_on() -> None:
        for number, line in enumerate(later):
            head.write(line)
            if number % 500 == 0:
                time.sleep(0.1)
        head.log += b"cut short"
        head.state = "SUCCEEDED"

    assert follow(head, go_on, "-f") == 0
    shown = capsys.readouterr()
    assert shown.out.rstrip("\n").split("\n") == [*words, *later, "cut short"]
    assert shown.err.endswith("next       eagerly jobs status chatty\n")
    assert head.sent_bytes < 4 * len(head.log)  # read whole at each of its looks, of which there are a dozen at least


def test_an_outage_of_the_dashboard_loses_no_line_and_repeats_none(
    head: Head, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"line {number % 7}" for number in range(30_000)]
    head.write(*words)
    head.break_after_bytes = len(head.log) // 2  # while the log is read for the first time

    def go_away() -> None:
        time.sleep(0.6)
        head.come()
        time.sleep(0.4)
        head.break_after_bytes = 10
        while head.server is not None:
            time.sleep(0.01)
        head.write("written meanwhile")
        head.come()
        time.sleep(0.3)
        head.state = "FAILED"

    assert follow(head, go_away, "-f") == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [*words, "written meanwhile"]
    assert shown.err.count("; it is asked again for 120 s") == 2
    assert shown.err.count("it answers again, and the log goes on") == 2
    assert head.sent_bytes < 4 * len(head.log)


def test_a_dashboard_that_stays_away_is_given_up_in_a_sentence(
    head: Head, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "OUTAGE_SECONDS", 0.5)
    head.write("one line")

    def stay_away() -> None:
        time.sleep(1.0)
        head.go()

    assert follow(head, stay_away, "-f") == 2
    shown = capsys.readouterr()
    assert shown.out == "one line\n"
    assert "has not answered for 0 s; `eagerly jobs logs chatty` shows what MLflow keeps" in shown.err


def test_another_cluster_in_the_place_of_the_first_is_told_from_it(
    head: Head, capsys: pytest.CaptureFixture[str]
) -> None:
    head.write("one line")

    def restart() -> None:
        time.sleep(1.0)
        head.begun_ms += 1
        time.sleep(0.3)
        head.write("of another job of the same name")

    assert follow(head, restart, "-f") == 2
    shown = capsys.readouterr()
    assert shown.out == "one line\n"
    assert f"the cluster at {head.address} came back without the job 'chatty'" in shown.err


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("STOPPED", 1), ("RUNNING", 3)])
def test_waiting_ends_with_what_became_of_the_job(head: Head, state: str, code: int) -> None:
    head.state = state
    assert cli.main(["jobs", "wait", "--timeout", "0.1", "chatty", "--address", head.address]) == code


def test_waiting_outlasts_an_outage_of_the_dashboard_and_says_so(
    head: Head, capsys: pytest.CaptureFixture[str]
) -> None:
    def go_away() -> None:
        time.sleep(1.0)
        head.go()
        time.sleep(0.5)
        head.state = "SUCCEEDED"
        head.come()

    other = threading.Thread(target=go_away)
    other.start()
    assert cli.main(["jobs", "wait", "chatty", "--address", head.address]) == 0
    other.join()
    shown = capsys.readouterr()
    assert "job        chatty is done" in shown.out
    assert shown.err.count("; it is asked again for 120 s") == 1
    assert shown.err.count("it answers again, and the wait goes on") == 1


def test_waiting_for_a_cluster_that_stays_away_is_given_up_in_a_sentence(
    head: Head, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "OUTAGE_SECONDS", 0.5)
    other = threading.Timer(1.0, head.go)
    other.start()
    assert cli.main(["jobs", "wait", "chatty", "--address", head.address]) == 2
    other.join()
    assert "has not answered for 0 s; `eagerly jobs logs chatty` shows what MLflow keeps" in capsys.readouterr().err


@pytest.mark.parametrize(("python", "release"), [("3.9.1", ray.__version__), (platform.python_version(), "2.1.0")])
def test_a_cluster_of_another_python_or_ray_is_refused_by_their_versions(head: Head, python: str, release: str) -> None:
    head.python, head.ray = python, release
    with pytest.raises(ValueError, match=rf"the cluster at {head.address} Python {python} and Ray {release}; install"):
        jobs.connect(head.address).check_versions()


def test_a_log_without_numbered_lines_is_read_again_and_shown_once(
    head: Head, capsys: pytest.CaptureFixture[str]
) -> None:
    head.log += b"of an older release\n" * 3

    def go_on() -> None:
        time.sleep(0.3)
        head.log += b"of an older release\n" * 2
        head.state = "STOPPED"

    assert follow(head, go_on, "-f") == 0
    assert capsys.readouterr().out == "of an older release\n" * 5


@pytest.mark.parametrize("flags", [["-f"], ["--follow"], []])
def test_a_log_ends_with_where_the_job_is_in_mlflow(
    head: Head, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    link = "http://mlflow:5000/#/experiments/3/runs/0123abcd"
    head.write("one line")
    if not flags:
        head.write(job_log.line({"mlflow": "0123abcd", "link": link}))

    def go_on() -> None:
        time.sleep(0.3)
        if flags:
            head.write(job_log.line({"mlflow": "0123abcd", "link": link}))
        head.state = "SUCCEEDED"

    assert follow(head, go_on, *flags) == 0
    shown = capsys.readouterr()
    assert shown.out == "one line\n"
    assert shown.err == f"MLflow run {link}\nnext       eagerly jobs status chatty\n"


def test_without_f_the_log_so_far_is_shown(head: Head, capsys: pytest.CaptureFixture[str]) -> None:
    head.write("one", "two")
    head.log += b"begun"
    assert cli.main(["jobs", "logs", "chatty", "--address", head.address]) == 0
    assert capsys.readouterr().out.splitlines() == ["one", "two", "begun"]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
def test_a_log_that_went_with_its_machine_is_shown_as_mlflow_keeps_it(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / history.LOG).write_text("kept line\n")
    (tmp_path / history.STATUS).write_text(json.dumps({"name": "chatty", "task": "sentiment", "phase": "failed"}))
    history.Keeper(tmp_path).upload()
    capsys.readouterr()
    head.has_log, head.state = False, "FAILED"
    for address in (head.address, "http://127.0.0.1:9"):
        assert cli.main(["jobs", "logs", "-f", "chatty", "--address", address]) == 0
        shown = capsys.readouterr()
        assert shown.out == "kept line\n" and "what MLflow keeps" in shown.err
        assert "\nMLflow run " in shown.err and shown.err.endswith("next       eagerly jobs status chatty\n")
