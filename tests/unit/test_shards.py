"""Columns of numbers on disk: larger than memory, on a disk that is full, and left half made."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import shards

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))


def megabyte(key: str) -> shards.Shards:
    """Opens columns of a megabyte, which are made if they are not there."""

    def fill(folder: Path) -> None:
        with shards.Writer(folder) as writer:
            writer.append("images", np.zeros(1_000_000, np.uint8))
            writer.close({"key": key})

    return shards.cached(key, fill)


def kept(tmp_path: Path) -> set[str]:
    """Names the keys whose columns are there."""
    folders = (tmp_path / "home" / "streams").glob("*/")
    return {shards.Shards(folder).facts["key"] for folder in folders if not folder.name.startswith(".")}


def test_what_was_used_longest_ago_makes_room_for_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGERLY_STREAMS_GB", "0.0025")
    for key in ("first", "second", "first", "third"):
        megabyte(key)
    assert kept(tmp_path) == {"first", "third"}
    monkeypatch.delenv("EAGERLY_STREAMS_GB")
    megabyte("fourth")
    assert kept(tmp_path) == {"first", "third", "fourth"}


USES = """
import pathlib, sys, torch
from pipelines.shards import Shards
mine = Shards(pathlib.Path(sys.argv[1])).column("images", torch.uint8)
print("ready", flush=True)
input()
"""


def test_what_a_process_uses_stays_until_it_does_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGERLY_STREAMS_GB", "0")
    pixels = megabyte("ours").column("images", torch.uint8)[5:].view(-1, 5)
    words = [sys.executable, "-c", USES, str(megabyte("theirs").folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        megabyte("new")
        assert kept(tmp_path) == {"ours", "theirs", "new"}
        other.communicate(b"\n")
    megabyte("newer")
    assert kept(tmp_path) == {"ours", "newer"} and int(pixels.sum()) == 0
    del pixels
    megabyte("newest")
    assert kept(tmp_path) == {"newest"}


def test_what_killed_processes_left_of_other_data_goes_too(tmp_path: Path) -> None:
    left = tmp_path / "home" / "streams" / f".{'a' * 64}.1.rough"
    left.mkdir(parents=True)
    (left / "images.bin").write_bytes(b"0")
    megabyte("new")
    assert not left.exists() and kept(tmp_path) == {"new"}


@pytest.mark.parametrize("given", ["-1", "much", "nan"])
def test_a_limit_that_is_none_is_refused_before_anything_is_read(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGERLY_STREAMS_GB", given)
    with pytest.raises(ValueError, match=f"EAGERLY_STREAMS_GB is '{given}'; it must be a number of gigabytes"):
        megabyte("new")


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
