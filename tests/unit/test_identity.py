"""A checkpoint belongs to a task, its settings, its code and its data, and is not taken for another's."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from training import PARITY, REGRESSION

from pipelines import identity, loop, tasks
from pipelines.place import Place
from pipelines.saving import Keeping

ANYWAY = Keeping(anyway=True)


def _begin(folder: Path, word: str = PARITY, **flags: Any) -> None:
    training.stop(folder, word=word, stop_at=30, checkpoint_steps=5, epochs=2, **flags)


def _own_task(folder: Path, name: str) -> str:
    shutil.copytree(PARITY, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return str(folder / name)


def test_another_task_s_checkpoint_is_refused_even_when_told(tmp_path: Path) -> None:
    _begin(tmp_path / "parity")
    (tmp_path / "regression").mkdir()
    shutil.copytree(tmp_path / "parity" / "checkpoints", tmp_path / "regression" / "checkpoints")
    for keeping in (Keeping(), ANYWAY):
        with pytest.raises(ValueError, match=r"regression' is one of parity, not of linear_regression"):
            training.train(tmp_path / "regression", REGRESSION, epochs=5, keeping=keeping)


def test_other_settings_are_refused_by_name_and_taken_when_told(tmp_path: Path) -> None:
    _begin(tmp_path)
    with pytest.raises(ValueError, match=r"has --lr 0\.\d+, not 0\.5; give what .* or add --resume-anyway"):
        training.train(tmp_path, PARITY, epochs=2, lr=0.5)
    told = training.train(tmp_path, PARITY, epochs=2, lr=0.5, keeping=ANYWAY)
    (resumed,) = told.named("resume")
    assert resumed["step"] >= 20 and len(resumed["inexact"]) == 1 and "not 0.5" in resumed["inexact"][0]


def test_settings_that_make_another_network_are_refused_even_when_told(tmp_path: Path) -> None:
    training.stop(tmp_path, stop_at=3, checkpoint_steps=2, batch_size=256)
    with pytest.raises(ValueError, match="does not fit the network"):
        training.train(tmp_path, batch_size=256, arch="article", keeping=ANYWAY)


def test_other_data_and_settings_are_named_together(tmp_path: Path) -> None:
    _begin(tmp_path)
    with pytest.raises(ValueError, match=r"has --longest \d+, not 9, and learned from other data \(digest"):
        training.train(tmp_path, PARITY, epochs=2, longest=9)


def test_code_that_has_changed_since_is_refused_and_taken_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    word = _own_task(tmp_path, "parity_that_changes")
    _begin(tmp_path / "run", word)
    with (Path(word) / "train.py").open("a") as file:
        file.write("\n# something else\n")
    with pytest.raises(ValueError, match=r"was computed by other code \(digest \w{12}, now \w{12}\)"):
        training.train(tmp_path / "run", word, epochs=2)
    assert training.train(tmp_path / "run", word, epochs=2, keeping=ANYWAY).metrics


def test_code_in_a_folder_of_the_task_counts_too(tmp_path: Path) -> None:
    word = _own_task(tmp_path, "parity_with_layers")
    task = tasks.find(word)
    (task.folder / "layers").mkdir()
    (task.folder / "layers" / "__init__.py").write_text("WIDTH = 3\n")
    before = identity.code_digest(task)
    (task.folder / "layers" / "__init__.py").write_text("WIDTH = 4\n")
    assert identity.code_digest(task) != before


def test_the_code_s_digest_covers_what_is_learned_by_and_not_how_it_is_launched() -> None:
    names = {path.name for path in identity.sources(tasks.find("sentiment")).values()}
    assert {"loop.py", "steps.py", "schedules.py", "batches.py", "train.py", "ngrams.py"} <= names
    assert not names & {"launch.py", "tracking.py", "recorder.py", "registry.py", "release.py"}
    digests = [identity.code_digest(tasks.find(word)) for word in ("sentiment", "classifier", "sentiment")]
    assert digests[0] == digests[2] != digests[1]


def test_another_number_of_workers_or_threads_or_another_machine_is_allowed_and_said() -> None:
    task = tasks.find(PARITY)
    then = identity.describe(task, task.config.Config(), "digest", Place())
    now = then | {"world": 2, "threads": 4, "device": "cuda", "GPU": "one", "PyTorch": "2.99.0"}
    assert identity.check(then, now, "run", anyway=False) == [
        "was taken with world 1, now 2",
        "was taken with threads 1, now 4",
        "was taken with device cpu, now cuda",
        f"was taken with PyTorch {torch.__version__}, now 2.99.0",
    ]
    assert identity.check(now, now | {"GPU": "other"}, "run", anyway=False) == ["was taken with GPU one, now other"]
    before = {name: value for name, value in then.items() if name not in ("PyTorch", "GPU")}
    assert identity.check(before, then, "run", anyway=False) == []
    assert identity.check(then, dict(then), "run", anyway=False) == []


def test_a_checkpoint_of_before_is_a_sentence(tmp_path: Path) -> None:
    from pipelines import checkpoint

    checkpoint.write(tmp_path / "checkpoints", 5, {"data": "1234", "network": {}})
    task = tasks.find(PARITY)
    with pytest.raises(ValueError, match="was written by another version of eagerly; start a new run"):
        loop.run(task, task.config.Config(epochs=1), tmp_path, Place())
