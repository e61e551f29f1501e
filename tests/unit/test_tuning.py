"""What becomes of a trial: its settings may fail it, a full disk or a lost process ends the search until it is resumed.

Ray Tune's part, to run what is proposed and to hand on what is reported, is taken by the few lines of `run_here`.
"""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher
from training import REGRESSION

from pipelines import checkpoint, tasks, trials, tuning
from pipelines.journal import Journal
from pipelines.settings import Launch
from pipelines.trials import Tuning

EPOCHS = 3
LOST: dict[int, int] = {}
"""How often a trial's process is still to be lost, by the trial's number."""


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, Any]] = []
    LOST.clear()

    def run_here(made: Tuning, proposer: tuning.Proposer) -> None:
        while not tuning.Halt(proposer).stop_all() and (asked := proposer.suggest("one")) != Searcher.FINISHED:
            attempts, error = 0, True
            while error and attempts <= tuning.LOST_WORKERS:
                attempts, error = attempts + 1, False
                reported.clear()
                try:
                    if LOST.get(asked["number"], 0):
                        LOST[asked["number"]] -= 1
                        raise ConnectionError
                    tuning._try(asked)
                except Exception:
                    error = True
            for result in reported:
                proposer.on_trial_result("one", result)
            proposer.on_trial_complete("one", reported[-1] if reported and not error else None, error)

    monkeypatch.setattr(tuning, "start", lambda made, say: None)
    monkeypatch.setattr(tuning, "_fit", run_here)
    monkeypatch.setattr(tuning.tune, "report", reported.append)


def create(folder: Path, word: str = REGRESSION, gpu: bool = False, **flags: Any) -> Tuning:
    config = tasks.find(word).config.Config(**flags)
    search = trials.Search(trials=3, max_epochs=EPOCHS, scheduler="none", set=("lr=uniform(0.1, 0.2)",))
    return trials.create(word, config, Launch(run_dir=str(folder), gpu=gpu), search)


def states(folder: Path) -> list[str]:
    return [trial.state for trial in trials.known(folder).values()]


def errors(folder: Path) -> list[list[str]]:
    said = [trials.events(trials.place(folder, number)) for number in trials.known(folder)]
    return [[event["sentence"] for event in events if event["event"] == "error"] for events in said]


def changed(place: Path, change: Callable[[str], str]) -> str:
    """Copies the regression's task, with another train.py."""
    shutil.copytree(REGRESSION, place, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "train.py").write_text(change((place / "train.py").read_text()))
    return str(place)


@pytest.mark.parametrize("where", ["a checkpoint", "a description"])
def test_a_full_disk_ends_the_search_and_its_trials_are_run_once_there_is_room(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "tune"
    made = create(folder)

    def refuse(*anything: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        if where == "a checkpoint":
            patch.setattr(checkpoint, "write_parts", refuse)
        else:
            patch.setattr(trials.runs, "create", refuse)
        sentence = (
            r"trial 1 cannot go on: .*No space left on device.*; make room, then `eagerly tune --resume .*/tune` "
        )
        with pytest.raises(ValueError, match=sentence) as raised:
            tuning.search(made, said.append)
    assert str(raised.value).count("make room") == 1
    assert states(folder) == ["running"] and said == []
    best = tuning.search(trials.reopen(folder), said.append)
    assert states(folder) == ["finished"] * 3 and errors(folder) == [[], [], []]
    assert best.epochs == EPOCHS and len(said) == 3


def test_a_full_disk_that_tune_itself_meets_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(made: Tuning, proposer: tuning.Proposer) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tuning, "_fit", fit)
    with pytest.raises(ValueError, match=r"/tune' cannot be written \(.*No space.*\); make room, then `--resume "):
        tuning.search(create(tmp_path / "tune"), print)


def test_a_process_that_is_lost_too_often_ends_the_search_and_counts_as_failed_if_it_is_lost_as_often_again(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tune"
    LOST[0], LOST[1] = tuning.LOST_WORKERS, tuning.LOST_WORKERS + 1
    with pytest.raises(ValueError, match=r"the process of trial 2 was lost 3 times, .*`eagerly tune --resume .*/tune`"):
        tuning.search(create(folder), print)
    assert states(folder) == ["finished", "running"]
    LOST[1] = tuning.LOST_WORKERS + 1
    assert tuning.search(trials.reopen(folder), print).number in (0, 2)
    assert states(folder) == ["finished", "failed", "finished"]


def test_code_that_raises_is_run_once_and_the_search_goes_on(tmp_path: Path) -> None:
    raising = '    raise KeyError("label")'
    word = changed(tmp_path / "raising", lambda code: code.replace("    x_B1, y_B1 = batch", raising, 1))
    folder, said = tmp_path / "tune", list[str]()
    with pytest.raises(ValueError, match=r"no trial of 3 came to its end; KeyError: 'label'"):
        tuning.search(create(folder, word), said.append)
    assert states(folder) == ["failed"] * 3 == [sentence.split()[2] for sentence in said]
    assert errors(folder) == [["KeyError: 'label'"]] * 3


def test_code_that_raises_on_a_gpu_ends_its_process_too_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []

    def train(run: Any, made: Tuning, asked: dict[str, Any]) -> None:
        runs.append(asked["number"])
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(tuning, "_train", train)
    folder = tmp_path / "tune"
    with pytest.raises(ValueError, match=r"no trial of 3 came to its end; RuntimeError: device-side assert"):
        tuning.search(create(folder, gpu=True), print)
    assert runs == [0, 1, 2] and errors(folder) == [["RuntimeError: device-side assert"]] * 3


def test_settings_that_diverge_fail_their_trial_alone(tmp_path: Path) -> None:
    config = tasks.find(REGRESSION).config.Config()
    search = trials.Search(3, 60, "none", set=("lr=choice(0.1, 1e30)",))
    folder = tmp_path / "tune"
    best = tuning.search(trials.create(REGRESSION, config, Launch(run_dir=str(folder)), search), print)
    assert best.values["lr"] == 0.1
    ended = {(trial.values["lr"], trial.state) for trial in trials.known(folder).values()}
    assert ended == {(0.1, "finished"), (1e30, "failed")}
    assert {sentence for said in errors(folder) for sentence in said if "the loss is " in sentence}


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_metric_that_is_not_finite_fails_its_trial(tmp_path: Path, value: str) -> None:
    odd = f'"negative_mse": float("{value}")'
    word = changed(tmp_path / value, lambda code: code.replace('"negative_mse": -mse', odd))
    folder = tmp_path / "tune"
    with pytest.raises(ValueError, match=f"no trial of 3 came to its end; negative_mse is {value} after 3 epochs"):
        tuning.search(create(folder, word), print)
    assert errors(folder) == [[f"negative_mse is {value} after 3 epochs"]] * 3


@pytest.mark.parametrize(("early_stopping", "value"), [(2, 0.95), (0, 0.89)])
def test_a_trial_with_early_stopping_is_judged_by_the_epoch_that_would_be_restored(
    tmp_path: Path, early_stopping: int, value: float
) -> None:
    folder = tmp_path / "tune"
    made = create(folder, early_stopping=early_stopping)
    search = Journal(folder)
    proposer = tuning.Proposer(made, search, print)
    asked = proposer.suggest("one")
    journal = Journal(trials.place(folder, asked["number"]))
    for epoch, metric in enumerate((0.95, 0.90, 0.89)):
        journal.append({"event": "epoch", "epoch": epoch, "metrics": {"negative_mse": metric}})
    journal.append({"event": "ended"})
    journal.close()
    proposer.on_trial_complete("one", {"negative_mse": 0.89, "epoch": 3})
    search.close()
    assert trials.best(folder).value == value
    assert json.loads((folder / "journal.jsonl").read_text().splitlines()[-1])["value"] == value
