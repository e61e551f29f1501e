"""What a process left of a version on its way goes when the process is gone, and not before."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services import store as stores
from services.follower import environment
from services.models import Stored
from services.store import Store

BRINGING = """
import sys, time
from services.store import Store
with Store(sys.argv[1], "http://registry").incoming("parity") as model:
    model.mkdir()
    print(model, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path), "http://registry")


def put(store: Store, version: int) -> Path:
    folder = store.place("parity", version, f"{version}" * 64)
    folder.mkdir(parents=True)
    os.utime(folder, (version, version))
    return folder


def test_a_version_on_its_way_stays_until_the_process_that_brings_it_is_gone(store: Store):
    command = [sys.executable, "-c", BRINGING, store.home]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        model = Path(other.stdout.readline().strip())
        store.tidy("parity")
        assert model.is_dir()
        other.send_signal(signal.SIGKILL)
    assert model.is_dir()
    store.tidy("parity")
    assert not model.parent.exists()


def test_a_place_for_a_version_is_gone_after_its_block_also_when_that_fails(store: Store):
    seen: list[Path] = []

    def fail() -> None:
        with store.incoming("parity") as model:
            model.mkdir()
            store.tidy("parity")
            assert model.is_dir(), "also this process holds it"
            seen.append(model)
            raise RuntimeError("no route")

    with pytest.raises(RuntimeError, match="no route"):
        fail()
    assert not seen[0].parent.exists()


def test_a_version_that_another_process_removes_while_it_is_tidied_is_no_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    folders = [put(store, version) for version in range(1, 6)]
    changed_at = stores._changed_at

    def vanish(path: Path) -> float:
        shutil.rmtree(folders[0], ignore_errors=True)
        return changed_at(path)

    monkeypatch.setattr(stores, "_changed_at", vanish)
    store.tidy("parity")
    assert [folder.exists() for folder in folders] == [False, False, True, True, True]


def test_a_write_that_finds_the_disk_full_leaves_the_file_before_and_nothing_beside_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    folder = put(store, 1)
    store.publish(Stored("parity", str(folder), 1, "run-1", "1" * 64))
    before = sorted(path.name for path in folder.parent.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.publish(Stored("parity", str(put(store, 2)), 2, "run-2", "2" * 64))
    found = store.current("parity")
    assert found and found.version == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([*before, f"2-{'2' * 64}"])
