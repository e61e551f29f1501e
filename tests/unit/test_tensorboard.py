"""TensorBoard's event files say what the journal says, whatever happened to who wrote them."""

import importlib
import json
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines import recorder, runs, tasks
from pipelines.journal import Journal
from pipelines.settings import Launch
from pipelines.tensorboard import Board

START = {"event": "start", "step": 0, "data": "digits", "data_digest": "0" * 64, "parameters": 3, "time": 1.0}


def _steps(first: int, losses: list[float]) -> dict[str, Any]:
    return {
        "event": "steps", "first": first, "losses": losses, "lr": 0.1, "examples_per_second": 5.0, "time": 2.0 + first
    }  # fmt: skip


def _records(folder: Path) -> list[Any]:
    """Reads the one event file of a run as TensorBoard does: length, its checksum, an event, its checksum."""
    messages: Any = importlib.import_module("tensorboardX.proto.event_pb2")
    (file,) = (folder / "tensorboard").iterdir()
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        found.append(messages.Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def _shown(folder: Path, name: str) -> dict[int, list[float]]:
    """Replays the file as TensorBoard does: a session that starts at a step voids what there was from it on."""
    found: dict[int, list[float]] = {}
    for record in _records(folder):
        if record.HasField("session_log"):
            found = {step: values for step, values in found.items() if step < record.step}
        for value in record.summary.value:
            if value.tag == name and value.HasField("simple_value"):
                found.setdefault(record.step, []).append(round(value.simple_value, 4))
    return found


def test_each_step_is_there_once_at_its_time(tmp_path: Path) -> None:
    board = Board(tmp_path, {"lr": 0.1})
    board.take([START, _steps(0, [3.0, 2.0])])
    board.take([_steps(2, [1.0])])
    assert _shown(tmp_path, "train/loss") == {0: [3.0], 1: [2.0], 2: [1.0]}
    assert [record.wall_time for record in _records(tmp_path) if record.step == 2] == [4.0] * 3
    board.close(failed=False)


def test_of_steps_that_were_taken_again_the_last_is_shown(tmp_path: Path) -> None:
    board = Board(tmp_path, {})
    board.take([START, _steps(0, [3.0, 2.0, 9.0]), {**START, "step": 1}, _steps(1, [2.0, 1.0]), _steps(2, [0.5])])
    board.close(failed=False)
    assert _shown(tmp_path, "train/loss") == {0: [3.0], 1: [2.0], 2: [0.5]}


def test_another_recorder_writes_the_file_anew(tmp_path: Path) -> None:
    boards = [Board(tmp_path, {}) for _ in range(3)]  # the last but one as if they were killed
    boards[0].take([START, _steps(0, [3.0])])
    boards[2].take([START, _steps(0, [3.0, 2.0])])
    for board in boards:
        board.close(failed=True)
    assert _shown(tmp_path, "train/loss") == {0: [3.0], 1: [2.0]}


def test_settings_and_plots_are_there(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "plots").mkdir()
    Figure(figsize=(2, 1), dpi=50).savefig(tmp_path / "plots" / "loss.png")
    board = Board(tmp_path, {"lr": 0.1, "optimizer": "adam", "columns": ("a",)})
    epoch = {"event": "epoch", "epoch": 0, "step": 2, "metrics": {"accuracy": 0.5}, "time": 9.0}
    board.take([START, _steps(0, [3.0, 2.0]), epoch])
    board.close(failed=False)
    values = [value for record in _records(tmp_path) for value in record.summary.value]
    tags = [value.tag for value in values]
    assert tags[-1] == "_hparams_/session_end_info"
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "valid/accuracy"} <= set(tags)
    (image,) = (value.image for value in values if value.tag == "plots/loss")
    assert (image.width, image.height) == (100, 50) and image.encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
def test_it_is_written_while_mlflow_is_away_unless_it_is_not_wanted(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    closed = threading.Event()
    closed.set()
    task = tasks.find("classifier")
    for wanted in (True, False):
        launch = Launch(local=True, tensorboard=wanted, tracker_patience=0.0)
        run = runs.create("classifier", task, task.config.Config(), launch, tmp_path / str(wanted))
        journal = Journal(run.folder)
        for event in (START, _steps(0, [3.0, 2.0])):
            journal.append(event)
        journal.close()
        with pytest.raises(ValueError, match="does not answer"):
            recorder.Recorder(run.folder).follow(closed)
    assert _shown(tmp_path / "True", "train/loss") == {0: [3.0], 1: [2.0]}
    assert not (tmp_path / "False" / "tensorboard").exists()
    assert json.loads((tmp_path / "True" / "run.json").read_text())["launch"]["tensorboard"] is True
