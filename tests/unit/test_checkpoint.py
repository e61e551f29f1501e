"""Checkpoints come back as they were, the newest whole one first."""

import copy
import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import checkpoint, sealed

STATE: dict[str, Any] = {
    "network": {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)},
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2, dtype=torch.bfloat16)}}, "groups": [{"lr": 0.1, "on": True}]},
    "best": {},
    "progress": {"best": float("-inf"), "name": "ä/b", "none": None},
}


def test_nested_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 3, STATE)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    state, problems = found
    assert problems == []
    assert _plain(state) == _plain(STATE)


def test_there_is_no_checkpoint_before_the_first(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "checkpoints") is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint.write(tmp_path, step, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010", "step-000000015"]


def test_the_one_before_stays_until_the_next_was_read_back_and_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checkpoint.write(tmp_path, 5, {"step": 5}, keep=1)
    put = sealed.write

    def lossy(folder: Path, *what: Any) -> str:
        digest = put(folder, *what)
        (folder / checkpoint.TENSORS).write_bytes(b"")
        return digest

    monkeypatch.setattr(sealed, "write", lossy)
    with pytest.raises(sealed.Corrupt):
        checkpoint.write(tmp_path, 10, {"step": 10}, keep=1)
    assert checkpoint.whole(tmp_path) == [first]


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors", "MANIFEST.json"])
def test_a_flipped_byte_falls_back_to_the_one_before_and_says_so(tmp_path: Path, file: str) -> None:
    checkpoint.write(tmp_path, 5, STATE | {"step": 5})
    newest = checkpoint.write(tmp_path, 10, STATE | {"step": 10})
    content = bytearray((newest / file).read_bytes())
    content[len(content) // 2] ^= 64
    (newest / file).write_bytes(content)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[0]["step"] == 5
    assert len(found[1]) == 1 and "step-000000010" in found[1][0]


def test_a_half_written_checkpoint_is_none(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 5, {"step": 5})
    with pytest.raises(AssertionError, match="/odd is a <class 'object'>"):
        checkpoint.write(tmp_path, 10, {"odd": object()})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found == ({"step": 5}, [])


def test_no_pickle_is_written(tmp_path: Path) -> None:
    place = checkpoint.write(tmp_path, 5, STATE)
    assert {path.suffix for path in place.iterdir()} == {".json", ".safetensors"}


def test_a_copy_is_left_alone_by_further_training() -> None:
    weight = torch.ones(2, requires_grad=True)
    copy = checkpoint.copy_to_cpu({"weight": weight})
    with torch.no_grad():
        weight += 1
    assert copy["weight"].tolist() == [1, 1]
    assert not copy["weight"].requires_grad


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step, score in ((5, 0.1), (10, 0.9), (15, None), (20, 0.3), (25, 0.2)):
        checkpoint.write(tmp_path, step, {"step": step}, score)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-000000010", "step-000000020", "step-000000025"]


def test_a_step_taken_again_is_the_newer_one(tmp_path: Path) -> None:
    for history in ("first", "second"):
        checkpoint.write(tmp_path, 5, {"history": history})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[0] == {"history": "second"}


@pytest.mark.parametrize("times", [3, 11])
def test_a_step_taken_again_and_again_stays_the_newest_though_older_ones_are_deleted(
    tmp_path: Path, times: int
) -> None:
    for time in range(times):
        checkpoint.write(tmp_path, 5, {"time": time}, keep=1)
    assert checkpoint.latest(tmp_path) == ({"time": times - 1}, [])
    assert len(checkpoint.steps(tmp_path)) == 1


def test_the_best_of_a_step_taken_again_is_the_newer_one(tmp_path: Path) -> None:
    for _ in range(10):
        checkpoint.write(tmp_path, 5, {}, 0.5, keep=2)
    checkpoint.write(tmp_path, 6, {}, keep=1)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-000000005-10", "step-000000006"]


def test_a_folder_that_a_user_put_aside_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 5, {"step": 5}).rename(tmp_path / "step-000000005-mine")
    checkpoint.write(tmp_path, 4, {"step": 4})
    checkpoint.forget_after(tmp_path, 4)
    assert checkpoint.latest(tmp_path) == ({"step": 4}, [])
    assert (tmp_path / "step-000000005-mine").is_dir()


def test_what_a_dead_process_left_half_written_is_swept_and_a_live_one_s_is_not(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    names = [f".step-000000005.{pid}.rough" for pid in (ended.pid, os.getppid(), os.getpid())]
    for name in names:
        (tmp_path / name).mkdir()
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [names[1]]
    assert checkpoint.latest(tmp_path) is None


def test_corrupt_ones_are_set_aside_so_that_the_last_good_outlives_the_next(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 5, {"step": 5})
    for step in (10, 15):
        (checkpoint.write(tmp_path, step, {"step": step}) / "state.json").write_text("{")
    assert [path.name for path in checkpoint.whole(tmp_path)] == []
    checkpoint.write(tmp_path, 5, {"step": 5}, keep=9)
    checkpoint.set_aside(tmp_path)
    checkpoint.write(tmp_path, 7, {"step": 7})
    assert [path.name for path in checkpoint.whole(tmp_path)] == ["step-000000005", "step-000000007"]
    assert checkpoint.latest(tmp_path) == ({"step": 7}, [])


def test_later_steps_are_forgotten_when_a_run_goes_back(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint.write(tmp_path, step, {"step": step}, keep=9)
    checkpoint.forget_after(tmp_path, 5)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-000000005"]


@pytest.mark.parametrize("path", [("network", "weight"), ("optimizer", "state", 0, "exp_avg"), ("network", "steps")])
def test_the_digest_sees_one_flipped_bit_of_any_tensor(path: tuple[str, ...]) -> None:
    other: Any = copy.deepcopy(STATE)
    assert checkpoint.digest(other) == checkpoint.digest(STATE)
    tensor: torch.Tensor = functools.reduce(lambda part, key: part[key], path, other)
    tensor.reshape(-1).view(torch.uint8)[0] ^= 1
    assert checkpoint.digest(other) != checkpoint.digest(STATE)


def test_the_digest_sees_counters_and_metrics_and_not_the_order_of_keys() -> None:
    assert checkpoint.digest({"a": 1, "b": 2.0}) == checkpoint.digest({"b": 2.0, "a": 1})
    assert checkpoint.digest({"a": 1, "b": 2.0}) != checkpoint.digest({"a": 1, "b": 2.0000000000000004})


def _plain(value: Any) -> Any:
    """Makes tensors comparable."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
