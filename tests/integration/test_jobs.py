"""Jobs on a real cluster that `eagerly cluster up` started: queued, killed, stopped, resumed, known once it is gone."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from trained import ROOT, losses

from pipelines import checkpoint
from pipelines.journal import Reader

REGRESSION = ROOT / "examples" / "linear_regression"
LONG = ["--epochs", "1000000", "--threads", "1"]
PATIENCE_SECONDS = 120.0
pytestmark = pytest.mark.timeout(900)  # the one fixture does all the work


@dataclass
class Desk:
    """A user's working folder, from where one cluster is started and asked."""

    folder: Path
    task: str
    """A folder with a task whose epochs take a moment, so that a long run leaves the machine to what is asked of it."""
    outputs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `eagerly WORDS`."""
        unset = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
        clean = {name: value for name, value in os.environ.items() if name not in unset}
        environment = {**clean, "PYTHONPATH": str(ROOT), "EAGERLY_HOME": str(self.folder / "home")}
        command = [sys.executable, "-m", "eagerly", *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=200, check=False
        )

    def say(self, *words: str) -> str:
        """Runs `eagerly WORDS`, which must succeed; returns what it printed."""
        done = self.call(*words)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def note(self, what: str, output: str) -> str:
        """Keeps an output for the tests."""
        self.outputs[what] = output
        return output

    def journal(self, name: str, kind: str) -> list[dict[str, float]]:
        return [event for event in Reader(self.folder / "runs" / name).new_events() if event["event"] == kind]

    def checkpoint(self, name: str) -> int:
        found = checkpoint.latest(self.folder / "runs" / name / "checkpoints")
        assert found is not None
        return found[0]["progress"]["step"]

    def cluster(self) -> str:
        return json.loads((self.folder / "home" / "cluster.json").read_text())["folder"]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def those_of(words: str) -> list[psutil.Process]:
    """Lists the processes that have something in their command."""
    found = []
    for process in psutil.process_iter():
        try:
            if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def unhurried(folder: Path) -> str:
    """Copies the linear regression so that each of its batches takes 20 ms, in which nothing is computed."""
    task = shutil.copytree(REGRESSION, folder / REGRESSION.name, ignore=shutil.ignore_patterns("__pycache__"))
    data, take = task / "data.py", "return self.x[index_B]"
    timed = data.read_text().replace("\nimport", "\nimport time\nimport", 1)
    slow = timed.replace(take, f"time.sleep(0.02)\n        {take}")
    assert slow != timed
    data.write_text(slow)
    return str(task)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A job that takes the whole cluster while two wait, whose driver is killed, which is stopped and goes on."""
    desk = Desk(tmp_path_factory.mktemp("jobs"), unhurried(tmp_path_factory.mktemp("task")))
    desk.outputs["up"] = desk.say("cluster", "up", "--port", "0", "--cpus", "1")
    try:
        _tell(desk)
        yield desk
    finally:
        desk.call("cluster", "down")


def _tell(desk: Desk) -> None:
    desk.outputs["submit"] = desk.say("submit", desk.task, "--name", "first", *LONG)
    desk.outputs["taken"] = desk.call("submit", desk.task, "--name", "first").stderr
    desk.outputs["many"] = desk.call("submit", desk.task, "--workers", "99").stderr
    desk.outputs["dry"] = desk.say("submit", desk.task, "--name", "unsent", "--epochs", "20", "--dry-run")
    until(lambda: desk.journal("first", "epoch"))
    desk.say("submit", desk.task, "--name", "low", "--epochs", "20")
    desk.say("submit", desk.task, "--name", "high", "--epochs", "20", "--priority", "5")
    until(lambda: _is_queued(desk))
    (driver,) = those_of(f"train ./linear_regression --epochs=1000000 --threads=1 --run-dir {desk.folder}/runs/first")
    driver.send_signal(signal.SIGKILL)
    until(lambda: desk.journal("first", "resume"))
    began = len(desk.journal("first", "steps"))
    until(lambda: len(desk.journal("first", "steps")) > began + 3)
    desk.outputs["status"] = desk.say("jobs", "status", "first")
    until(lambda: list(desk.folder.glob("mlruns/*/*/artifacts/job/job.log")))
    desk.outputs["stop"] = desk.say("jobs", "stop", "first")
    desk.outputs["left"] = "\n".join(" ".join(process.cmdline()) for process in those_of("runs/first"))
    desk.facts["steps of first"] = len(losses(desk.folder / "runs" / "first"))
    desk.facts["checkpoint of first"] = desk.checkpoint("first")
    until(lambda: desk.journal("high", "start"))
    desk.facts["low started"] = len(desk.journal("low", "start"))
    desk.outputs["low"] = desk.say("jobs", "stop", "low")
    _go_on(desk)
    desk.outputs["follow"] = desk.say("jobs", "logs", "-f", "high")
    desk.outputs["wait"] = desk.say("jobs", "wait", "high")
    desk.outputs["all of high"] = desk.say("jobs", "logs", "high")
    until(lambda: len(losses(desk.folder / "runs" / "first")) > desk.facts["steps of first"])
    desk.outputs["second stop"] = desk.say("jobs", "stop", "first")
    desk.say("submit", desk.task, "--name", "large", "--workers", "2", "--wait")
    until(lambda: "waiting for 2" in desk.note("wants", desk.say("jobs", "list")))
    desk.outputs["wanting"] = desk.say("jobs", "status", "large")
    desk.say("jobs", "stop", "large")
    ours = desk.cluster()
    desk.outputs["down"] = desk.say("cluster", "down")
    desk.facts["processes"] = len(those_of(ours))


def _go_on(desk: Desk) -> None:
    """Submits the stopped job again, without and then with the flag for that; it waits for its turn."""
    desk.outputs["logs"] = desk.say("jobs", "logs", "first")
    desk.outputs["ended"] = desk.call("submit", desk.task, "--name", "first").stderr
    desk.outputs["again"] = desk.say("submit", desk.task, "--name", "first", "--again")


def _is_queued(desk: Desk) -> bool:
    """Lists the jobs, and says whether both that wait have told of each other."""
    listed = desk.outputs["list"] = desk.say("jobs", "list")
    return "place 1 in the queue" in listed and "place 2 in the queue" in listed


def test_a_job_that_is_submitted_says_what_travels_and_what_comes_next(desk: Desk) -> None:
    assert "files, " in desk.outputs["submit"] and " MB" in desk.outputs["submit"]
    assert "next       eagerly jobs logs -f first" in desk.outputs["submit"]


def test_a_dry_run_prints_the_command_of_the_job_and_submits_nothing(desk: Desk) -> None:
    (command,) = [line for line in desk.outputs["dry"].splitlines() if line.startswith("command")]
    *words, plan = shlex.split(command)
    assert words == ["command", "python", "-m", "eagerly.supervisor"]
    assert {"name": "unsent", "flags": ["--epochs=20"]}.items() <= json.loads(plan).items()
    assert "           EAGERLY_JOB=unsent\n" in desk.outputs["dry"]
    assert "next       the same without --dry-run submits it" in desk.outputs["dry"]
    assert "first" in desk.outputs["list"] and "unsent" not in desk.outputs["list"]
    assert not (desk.folder / "runs" / "unsent").exists()


def test_a_name_that_is_taken_is_refused_with_the_way_out(desk: Desk) -> None:
    assert "the job name 'first' is taken by a job that is" in desk.outputs["taken"]
    assert "give another --name" in desk.outputs["taken"]


def test_more_workers_than_there_are_processors_are_refused_and_told_what_is_there(desk: Desk) -> None:
    assert "--workers is 99, and the cluster at http://127.0.0.1:" in desk.outputs["many"]
    assert "has 1 CPU; ask for fewer workers, or give --wait" in desk.outputs["many"]


def test_a_job_that_waits_for_more_workers_than_the_cluster_has_says_for_what(desk: Desk) -> None:
    (line,) = [line for line in desk.outputs["wants"].splitlines() if line.startswith("large")]
    assert "waiting for 2 CPUs: the cluster has 1 CPU, " in line
    assert "job        large, ./linear_regression, waiting\n" in desk.outputs["wanting"]
    assert "steps      waiting for 2 CPUs: the cluster has 1 CPU, " in desk.outputs["wanting"]


def test_jobs_wait_for_a_full_cluster_in_the_order_of_their_priority(desk: Desk) -> None:
    places = {line.split()[0]: line for line in desk.outputs["list"].splitlines() if line}
    assert "place 1 in the queue" in places["high"] and "place 2 in the queue" in places["low"]
    assert desk.facts["low started"] == 0
    assert "is done" in desk.outputs["wait"] and "is stopped" in desk.outputs["low"]


def test_a_log_that_was_followed_to_the_end_of_the_job_is_that_of_an_ended_job(desk: Desk) -> None:
    assert desk.outputs["follow"] == desk.outputs["all of high"]
    assert len(desk.outputs["follow"].splitlines()) > 3 and "@eagerly" not in desk.outputs["follow"]


def test_a_job_whose_driver_was_killed_goes_on_from_its_checkpoint(desk: Desk) -> None:
    resumed, *_ = desk.journal("first", "resume")
    assert resumed["step"] > 0
    assert "restarts   1" in desk.outputs["status"]
    assert "the driver was killed by signal 9; it goes on" in desk.outputs["logs"]


def test_a_job_that_is_stopped_leaves_a_checkpoint_of_its_last_step_and_no_process(desk: Desk) -> None:
    took = re.search(r"first is stopped after ([\d.]+) s", desk.outputs["stop"])
    assert took and float(took[1]) <= 5
    assert f"next       eagerly submit {desk.task} --name first --again  # goes on with it" in desk.outputs["stop"]
    assert desk.outputs["left"] == ""
    assert desk.facts["checkpoint of first"] == desk.facts["steps of first"] > 0


def test_a_job_that_was_stopped_goes_on_from_its_last_step_when_it_is_submitted_again(desk: Desk) -> None:
    assert "the job name 'first' is taken by a job that is stopped" in desk.outputs["ended"]
    assert "--again goes on with it where it ended" in desk.outputs["ended"]
    assert "job        first is submitted" in desk.outputs["again"]
    _, resumed = desk.journal("first", "resume")
    assert resumed["step"] == desk.facts["checkpoint of first"] and resumed["problems"] == []
    assert "first is stopped after" in desk.outputs["second stop"]


def test_the_end_of_a_cluster_is_that_of_all_its_processes(desk: Desk) -> None:
    assert desk.facts["processes"] == 0


def test_jobs_are_known_to_mlflow_once_their_cluster_is_gone(desk: Desk) -> None:
    address = ["--address", "http://127.0.0.1:9"]
    listed = desk.say("jobs", "list", *address)
    lines = {line.split()[0]: line for line in listed.splitlines() if line}
    assert "/1000000" in lines["first"] and "done" in lines["high"]
    assert "starting workers" in desk.say("jobs", "logs", "first", *address)
    assert "job        high, ./linear_regression, done" in desk.say("jobs", "status", "high", *address)
