"""A version that comes slowly, or never, keeps nobody from the others, and is taken when it is here."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import registries
from registries import eventually

from benchmarks.registry_server import Registry
from pipelines import registry as mlflow_registry
from pipelines import rollout
from pipelines.policy import Limits, Rollout
from services import conductor, downloads, seats, watcher
from services.follower import Leash, environment
from services.store import Store
from services.watcher import Watcher


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(conductor, "REPORT_S", 0.0)
    monkeypatch.setattr(conductor, "LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(watcher, "CORRUPT_S", 0.0)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """A registry with two tasks of three versions, the first of which is champion."""
    served = Registry()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    for task in ("large", "small"):
        for number in (3, 2, 1):
            folder = tmp_path / f"{task}-{number}"
            served.register(task, number, folder, registries.weights(folder, number))
    yield served
    served.close()


@pytest.fixture
def node(registry: Registry, tmp_path: Path) -> Iterator[Store]:
    """A node that serves both tasks."""
    store = Store(str(tmp_path / "home"), registry.uri)
    descriptors = [store.use(task) for task in ("large", "small")]
    yield store
    for descriptor in descriptors:
        os.close(descriptor)


class Storage:
    """Storage that answers for every version but those that hang until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.hanging: set[tuple[str, int]] = set()
        self.asked: list[tuple[str, int]] = []


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    made, download = Storage(), mlflow_registry.download

    def wait(version: mlflow_registry.Version, folder: Path) -> None:
        made.asked.append((version.name, version.version))
        if (version.name, version.version) in made.hanging:
            made.gate.wait(60)
        download(version, folder)

    monkeypatch.setattr(mlflow_registry, "download", wait)
    yield made
    made.gate.set()
    assert eventually(lambda: not downloading())


def downloading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("download-")]


def try_version_2(registry: Registry, task: str = "large") -> Rollout:
    made = Rollout("one", 2, 1, "shadow", 0.5, Limits(), began=0.0)
    registry.tags[task] = {rollout.TAG: made.to_json()}
    return made


def version(store: Store, task: str) -> int:
    found = store.current(task)
    return found.version if found else 0


@pytest.fixture
def follow(node: Store, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    """A watcher that has the champions; version 2 of the large task hangs from now on."""
    made = Watcher(node)
    assert made.look()
    storage.hanging.add(("large", 2))
    monkeypatch.setattr(downloads, "QUICK_S", 0.3)
    return made


def test_a_candidate_that_does_not_come_delays_no_champion_and_is_taken_when_it_comes(
    registry: Registry, node: Store, storage: Storage, follow: Watcher
):
    made = try_version_2(registry)
    registry.champions["small"] = 2
    assert follow.look()
    assert version(node, "small") == 2
    assert follow.look()
    (report,) = rollout.reports(registry.tags["large"], made).values()
    assert report.problem == "version 2 is on its way"
    assert storage.asked.count(("large", 2)) == 1
    storage.gate.set()
    assert eventually(lambda: follow.look() and seats.told(node, "large"))
    told = seats.told(node, "large")
    assert told and told.candidate and told.candidate.version == 2
    (report,) = rollout.reports(registry.tags["large"], made).values()
    assert report.problem == ""


def test_a_candidate_that_does_not_come_delays_neither_its_own_champion_nor_an_abort(
    registry: Registry, node: Store, storage: Storage, follow: Watcher
):
    made = try_version_2(registry)
    assert follow.look()
    registry.champions["large"] = 3
    assert follow.look()
    assert version(node, "large") == 3
    assert rollout.latest(mlflow_registry.aim("large")) == made.ended(
        "superseded", "champion was moved from version 1 to 3"
    )
    assert follow.look()
    assert seats.told(node, "large") is None
    assert follow.hanging_count == 1, "nobody waits for it any more"
    storage.gate.set()
    assert eventually(lambda: follow.hanging_count == 0)
    assert version(node, "large") == 3


def test_a_champion_that_does_not_come_leaves_the_one_before_and_is_taken_when_it_comes(
    registry: Registry, node: Store, storage: Storage, follow: Watcher
):
    registry.champions["large"] = 2
    for _ in range(3):
        assert follow.look()
    assert version(node, "large") == 1
    assert not node.state().refused
    assert len(downloading()) == 1
    storage.gate.set()
    assert eventually(lambda: follow.look() and version(node, "large") == 2)
    assert storage.asked.count(("large", 2)) == 1


def test_a_champion_comes_before_a_candidate_of_its_task_and_takes_its_place(
    registry: Registry, node: Store, storage: Storage, follow: Watcher
):
    registry.champions["large"] = 2
    assert follow.look()
    registry.tags["large"] = {rollout.TAG: Rollout("one", 3, 2, "shadow", 0.5, Limits(), began=0.0).to_json()}
    assert follow.look()
    assert ("large", 3) not in storage.asked, "one at a time"
    registry.champions["large"] = 1
    assert follow.look()
    assert version(node, "large") == 1
    assert follow.hanging_count == 1


def test_a_version_that_takes_too_long_is_refused_and_tried_again(
    registry: Registry, node: Store, storage: Storage, follow: Watcher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloads, "DOWNLOAD_S", 0.1)
    registry.champions["large"] = 2
    assert follow.look()
    assert node.state().refused["large"] == "version 2: no answer within 0 s"
    assert follow.hanging_count == 1
    storage.hanging.clear()
    assert eventually(lambda: follow.look() and version(node, "large") == 2)
    assert not node.state().refused


def test_a_task_that_nobody_serves_any_more_is_waited_for_no_more(
    registry: Registry, node: Store, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloads, "QUICK_S", 0.3)
    storage.hanging.add(("other", 1))
    folder = tmp_path / "other"
    registry.register("other", 1, folder, registries.weights(folder))
    follow, descriptor = Watcher(node), node.use("other")
    assert follow.look()
    assert follow.hanging_count == 0
    os.close(descriptor)
    assert follow.look()
    assert follow.hanging_count == 1


@pytest.fixture
def leash(node: Store) -> Iterator[Leash]:
    """What a replica holds its watcher with."""
    held = Leash(node, poll_s=0.2)
    yield held
    held.let_go()


@pytest.fixture
def silence() -> Iterator[str]:
    """The address of a storage that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/api/2.0/mlflow-artifacts/artifacts/large"


def test_a_storage_that_is_silent_delays_no_swap_and_ends_with_its_watcher(
    registry: Registry, node: Store, leash: Leash, silence: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "200")
    registry.versions["large", 2]["source"] = silence
    leash.hold()
    assert eventually(lambda: (version(node, "large"), version(node, "small")) == (1, 1), 60)
    made = try_version_2(registry)
    assert eventually(lambda: rollout.reports(registry.tags["large"], made), 60)
    (report,) = rollout.reports(registry.tags["large"], made).values()
    assert report.problem == "version 2 is on its way"
    for number in (2, 3, 1):
        registry.champions["small"] = number
        assert eventually(lambda number=number: version(node, "small") == number)
    registry.champions["large"] = 3
    assert eventually(lambda: version(node, "large") == 3)
    process = psutil.Process(leash.watcher_pid)
    leash.let_go()
    assert not process.is_running()


CLOGGED = """
import sys, threading
from services import downloads, watcher
from services.store import Store
downloads.QUICK_S = downloads.DOWNLOAD_S = watcher.UNREADABLE_S = watcher.CORRUPT_S = 0.05
watcher.MOST_LEFT = 2
watcher.bring = lambda store, version: threading.Event().wait()
watcher.watch(Store(sys.argv[1], sys.argv[2]), 0.05)
"""


def test_a_watcher_ends_when_too_many_downloads_hang_so_that_another_is_started(registry: Registry, node: Store):
    command = [sys.executable, "-c", CLOGGED, node.home, node.uri]
    ended = subprocess.run(command, env=environment(), timeout=60, check=False, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert "3 downloads hang that were given up" in ended.stderr
