"""Workers that are killed under Ray Train: the run goes on from its checkpoint, and ends as if nothing had happened."""

import os
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
class Pair:
    """The same run twice in one launch, the second with a worker killed."""

    undisturbed: Path
    killed: Path


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
def pair(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("loss")
    how = Launch(workers=2, threads=1, checkpoint_steps=10, max_failures=1)
    planned = [plan(how, folder / name, epochs=8, dropout=0.1) for name in ("undisturbed", "killed")]
    killer = threading.Thread(target=kill_at, args=(planned[1].folder, 60))
    killer.start()
    launch.train(planned, how)
    killer.join()
    return Pair(planned[0].folder, planned[1].folder)


def test_the_journal_tells_of_the_restart_and_where_it_went_on(pair: Pair) -> None:
    (restart,) = events(pair.killed, "restart")
    assert (restart["cause"], restart["reason"], restart["count"]) == ("loss", "a worker died", 1)
    (resume,) = events(pair.killed, "resume")
    assert 50 <= resume["step"] < 200 and resume["problems"] == []
    assert not events(pair.undisturbed, "restart") and len(events(pair.undisturbed, "start")) == 1


def test_a_killed_worker_changes_nothing_in_the_final_state(pair: Pair) -> None:
    (then,), (now,) = (events(folder, "state") for folder in (pair.undisturbed, pair.killed))
    assert now["digest"] == then["digest"]
    weights, others = (
        load_file(folder / "artifact" / "model.safetensors") for folder in (pair.undisturbed, pair.killed)
    )
    assert all(bool((value == others[name]).all()) for name, value in weights.items())
