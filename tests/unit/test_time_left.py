"""How long a job still takes: reckoned from its journal, said by its supervisor, shown by `eagerly jobs`."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from training import ROOT

from eagerly import cli
from eagerly.commands.progress import State
from pipelines import job_log, jobs
from pipelines.jobs import Job
from pipelines.journal import Event

ADDRESS = "http://127.0.0.1:8265"
SAID = {"phase": "training", "step": 150, "steps": 300, "left_s": 1500, "restarts": 0, "begun": 1.0}


def begun(step: int, steps: int, ago_s: float) -> Event:
    return {"event": "start", "step": step, "steps": steps, "time": time.time() - ago_s}


def took(first: int, count: int) -> Event:
    return {"event": "steps", "first": first, "losses": [0.5] * count, "examples_per_second": 1000.0}


def state(*events: Event) -> State:
    made = State("job")
    for event in events:
        made.take(event)
    return made


def test_the_steps_to_come_take_as_long_as_those_that_were_taken() -> None:
    said = state(begun(0, 300, ago_s=1000), took(0, 40), took(40, 60))
    assert said.seconds_left() == pytest.approx(2000, rel=0.01)
    assert re.search(r"  20\d\d s left", said.figures())


def test_steps_before_a_resumption_say_nothing_about_the_speed_now() -> None:
    assert state(begun(200, 300, ago_s=100), took(200, 50)).seconds_left() == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(
    "later",
    [
        [],
        [took(0, 50), {"event": "restart", "reason": "a worker died"}],
        [took(0, 50), {"event": "restart", "reason": "a worker died"}, begun(40, 300, ago_s=1)],
        [took(0, 300), {"event": "testing"}],
        [took(0, 300), {"event": "testing"}, {"event": "test"}],
    ],
)
def test_nothing_is_foretold_before_a_step_is_taken_between_attempts_and_after_the_last(later: list[Event]) -> None:
    said = state(begun(0, 300, ago_s=10), *later)
    assert said.seconds_left() is None
    assert "left" not in said.figures()


DRIVER = """
import json, pathlib, sys, time
run_dir = pathlib.Path(sys.argv[1])
run_dir.mkdir()
start = {"event": "start", "step": 0, "steps": 300, "time": time.time() - 1000}
steps = {"event": "steps", "first": 0, "losses": [0.5] * 100, "examples_per_second": 10.0}
(run_dir / "journal.jsonl").write_text("".join(json.dumps(event) + chr(10) for event in (start, steps)))
"""
SUPERVISOR = """
import sys
from eagerly import supervisor
supervisor.Supervisor.command = lambda self: [sys.executable, "-c", sys.argv[2], str(self.run_dir)]
supervisor.Supervisor._keep = lambda self: None
sys.exit(supervisor.main(sys.argv[1:2]))
"""


def test_a_supervisor_says_in_whole_seconds_what_is_left(tmp_path: Path) -> None:
    plan = {"name": "j", "task": "sentiment", "flags": [], "run_dir": str(tmp_path / "run"), "restarts": 0}
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, json.dumps(plan), DRIVER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    left_s = job_log.latest(done.stdout.splitlines())["left_s"]
    assert isinstance(left_s, int) and 2000 <= left_s < 2500


@dataclass
class Cluster:
    """A cluster that has one job."""

    state: str
    said: dict[str, object]
    address: str = ADDRESS

    def jobs(self) -> list[Job]:
        ended = 1000.0 if self.state in jobs.ENDED else None
        return [Job("far", "sentiment", "far", self.state, 1.0, ended, "", said=self.said)]

    def heard(self, job: Job) -> Job:
        return job

    def job(self, name: str) -> Job:
        return self.jobs()[0]


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str, said: dict[str, object]
) -> tuple[str, str]:
    """What `eagerly jobs list` has below `left`, and the line of `eagerly jobs status` that begins with it."""
    monkeypatch.setattr(jobs, "connect", lambda address: Cluster(state, said))
    assert cli.main(["jobs", "list", "--address", ADDRESS]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    (row,) = [row for row in rows if row.startswith("far ")]
    at, until = head.index("left"), head.index("restarts")
    assert cli.main(["jobs", "status", "far", "--address", ADDRESS]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left ")]
    return row[at:until].strip(), "".join(lines)


def test_a_job_that_trains_is_listed_and_described_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, capsys, "RUNNING", SAID) == ("1500 s", "left       1500 s")


@pytest.mark.parametrize("state", jobs.ENDED)
def test_a_job_that_ended_has_no_time_left_whatever_was_said_last(
    state: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, capsys, state, SAID) == ("", "")


def test_a_job_of_which_nothing_can_be_foretold_is_shown_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, capsys, "RUNNING", {**SAID, "left_s": None}) == ("", "")
    assert shown(monkeypatch, capsys, "PENDING", {}) == ("", "")
