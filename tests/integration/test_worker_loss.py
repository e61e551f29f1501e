"""Workers that are killed under Ray Train: the run goes on from its checkpoint, and ends as if nothing had happened."""

import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from pipelines import launch, runs, tasks
from pipelines.journal import Event, Reader
from pipelines.settings import Launch

ROOT = Path(__file__).resolve().parents[2]
PARITY = str(ROOT / "examples" / "parity")
PATIENCE_SECONDS = 120
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),  # ray's own settings
]


@dataclass(frozen=True)
class Runs:
    """The same run three times in one launch: as it is, with a worker killed, and with one told to stop by SIGTERM."""

    undisturbed: Path
    killed: Path
    told: Path


def events(folder: Path, *kinds: str) -> list[Event]:
    return [event for event in Reader(folder).new_events() if event["event"] in kinds]


def workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_at(folder: Path, step: int, number: int = signal.SIGKILL) -> None:
    """Kills the last of the workers once the run has logged a step."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        seen = events(folder, "steps")
        if seen and seen[-1]["first"] >= step:
            os.kill(workers()[-1].pid, number)
            return
        time.sleep(0.02)


def plan(how: Launch, folder: Path, **flags: object) -> runs.Run:
    task = tasks.find(PARITY)
    return runs.create(PARITY, task, task.config.Config(**flags), how, folder)


@pytest.fixture(scope="module")
def three(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("loss")
    how = Launch(workers=2, threads=1, checkpoint_steps=10, max_failures=1)
    planned = [plan(how, folder / name, epochs=8, dropout=0.1) for name in ("undisturbed", "killed", "told")]
    killers = [
        threading.Thread(target=kill_at, args=(run.folder, 60, number))
        for run, number in zip(planned[1:], (signal.SIGKILL, signal.SIGTERM), strict=True)
    ]
    for killer in killers:
        killer.start()
    launch.train(planned, how)
    for killer in killers:
        killer.join()
    return Runs(*(run.folder for run in planned))


def test_the_journal_tells_of_the_restart_and_where_it_went_on(three: Runs) -> None:
    (restart,) = events(three.killed, "restart")
    assert (restart["cause"], restart["reason"], restart["count"]) == ("loss", "a worker died", 1)
    (resume,) = events(three.killed, "resume")
    assert 50 <= resume["step"] < 200 and resume["problems"] == []
    assert not events(three.undisturbed, "restart") and len(events(three.undisturbed, "start")) == 1


def test_sigterm_costs_no_step_and_no_budget(three: Runs) -> None:
    (restart,) = events(three.told, "restart")
    said = re.match(r"stopped after step (\d+), whose checkpoint is written", restart["reason"])
    assert said and restart["cause"] == "preemption"
    (resume,) = events(three.told, "resume")
    assert resume["step"] == int(said[1])


@pytest.mark.parametrize("disturbed", ["killed", "told"])
def test_what_happens_to_a_worker_changes_nothing_in_the_final_state(three: Runs, disturbed: str) -> None:
    folders = three.undisturbed, getattr(three, disturbed)
    (then,), (now,) = (events(folder, "state") for folder in folders)
    assert now["digest"] == then["digest"]
    weights, others = (load_file(folder / "artifact" / "model.safetensors") for folder in folders)
    assert all(bool((value == others[name]).all()) for name, value in weights.items())
