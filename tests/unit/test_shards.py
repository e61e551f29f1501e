"""Columns of numbers on disk: larger than memory, on a disk that is full, and left half made."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import shards


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))


def test_a_column_may_be_larger_than_memory_and_swap_together(tmp_path: Path) -> None:
    about = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    size = 2048 * (int(about["MemTotal"].split()[0]) + int(about["SwapTotal"].split()[0]))
    with shards.Writer(tmp_path) as writer:
        writer.append("images", np.array([7], np.uint8))
        writer.counts["images"] = size
        writer.close({})
    os.truncate(tmp_path / "images.bin", size)  # with a hole, which takes no room
    column = shards.Shards(tmp_path).column("images", torch.uint8)
    assert (len(column), int(column[0]), int(column[-1])) == (size, 7, 0)


def test_a_disk_that_fills_up_meanwhile_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "images.bin").symlink_to("/dev/full")
        with shards.Writer(folder) as writer:
            writer.append("images", np.zeros(1 << 20, np.uint8))

    with pytest.raises(ValueError, match=r"^the disk of '.*streams' is full; free some of it, or name a folder"):
        shards.cached("a key", fill)
    assert not [path for path in (tmp_path / "home" / "streams").iterdir() if path.is_dir()]


def test_what_a_killed_process_left_makes_room_first(tmp_path: Path) -> None:
    home = tmp_path / "home" / "streams"
    left: list[int] = []

    def fill(folder: Path) -> None:
        left.append(len(list(home.glob(".*.rough"))))
        with shards.Writer(folder) as writer:
            writer.append("images", np.arange(9))
            writer.close({})

    made = shards.cached("a key", fill)
    made.folder.rename(home / f".{made.folder.name}.1.rough")
    assert shards.cached("a key", fill).column("images", torch.int64).tolist() == list(range(9))
    assert left == [1, 1] and len(list(home.iterdir())) == 2
