"""A disk that is full for a worker of Ray ends the run with a sentence, though its journal takes none."""

import shutil
from pathlib import Path

import pytest
from trained import ROOT

from pipelines import launch, runs, tasks
from pipelines.journal import note
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # ray's own settings
LIMIT = """

import resource

_load = load


def load(config):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    return _load(config)
"""


CRASH = """

def load(config):
    raise OSError(28, "No space left on device")
"""


def create(folder: Path, code: str) -> runs.Run:
    """Makes a run of a task whose data is loaded by some code."""
    place = folder / "full"
    shutil.copytree(ROOT / "examples" / "linear_regression", place, ignore=shutil.ignore_patterns("__pycache__"))
    with (place / "data.py").open("a") as file:
        file.write(code)
    task = tasks.find(str(place))
    return runs.create(str(place), task, task.config.Config(epochs=5), Launch(workers=1), folder / "run")


@pytest.mark.timeout(300)
def test_a_worker_whose_journal_does_not_fit_ends_the_run_with_a_sentence(ray_cluster: None, tmp_path: Path) -> None:
    run = create(tmp_path, LIMIT)
    note(run.folder, {"event": "note", "text": "x" * 1_000_000})
    with pytest.raises(ValueError, match=r"/run' cannot be written \(.*File too large.*\); make room, then `--resume"):
        launch.train([run], Launch(workers=1))


@pytest.mark.timeout(300)
def test_whatever_finds_the_disk_full_the_run_ends_with_a_sentence(ray_cluster: None, tmp_path: Path) -> None:
    run = create(tmp_path, CRASH)
    with pytest.raises(ValueError, match=r"/run' cannot be written \(.*No space left.*\); make room, then `--resume"):
        launch.train([run], Launch(workers=1))
