"""The watcher brings the registry's champions into the store, and nothing that the registry or a disk does harms it."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import registries
from registries import eventually

from benchmarks.registry_server import MODES, Registry
from pipelines import registry as mlflow_registry
from pipelines import tracking
from services import watcher
from services.follower import Leash, environment
from services.store import KEPT_COUNT, Store, absolute
from services.watcher import Watcher

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is silent is given up within a second, here and in the processes of the tests."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    served = Registry()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    yield served
    served.close()


@pytest.fixture
def store(registry: Registry, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "home"), registry.uri)


@pytest.fixture
def used(store: Store) -> Iterator[str]:
    """A task that a replica serves."""
    descriptor = store.use("parity")
    yield "parity"
    os.close(descriptor)


def add(registry: Registry, folder: Path, version: int) -> Path:
    """Registers a version as champion; returns its artifact."""
    source = folder / f"artifact-{version}"
    registry.register("parity", version, source, registries.weights(source, version))
    return source


def version(store: Store) -> int:
    found = store.current("parity")
    return found.version if found else 0


def test_the_champion_comes_into_the_store_and_follows_the_alias(
    registry: Registry, store: Store, used: str, tmp_path: Path
):
    follow = Watcher(store)
    for number in (1, 2):
        add(registry, tmp_path, number)
        assert follow.look()
        found = store.current(used)
        assert found and (found.version, found.run_id) == (number, f"run-{number}")
    registry.champions["parity"] = 1
    follow.look()
    assert version(store) == 1
    assert store.state().up and not store.state().refused


def test_a_round_without_news_is_one_call_for_each_task_and_none_for_a_task_that_nobody_serves(
    registry: Registry, store: Store, tmp_path: Path
):
    add(registry, tmp_path, 1)
    follow = Watcher(store)
    follow.look()
    assert not registry.asked
    descriptor = store.use("parity")
    follow.look()
    registry.asked.clear()
    follow.look()
    follow.look()
    assert registry.asked == {"registered-models/get": 2}
    os.close(descriptor)
    follow.look()
    assert registry.asked == {"registered-models/get": 2}


def test_the_latest_versions_stay_on_disk_and_older_ones_go(
    registry: Registry, store: Store, used: str, tmp_path: Path
):
    follow = Watcher(store)
    for number in range(1, KEPT_COUNT + 3):
        add(registry, tmp_path, number)
        follow.look()
        if number == 1:
            found = store.current(used)
            assert found
            store.confirm(found)
    kept = sorted(int(path.name.partition("-")[0]) for path in (store.folder / used).glob("*-*") if path.is_dir())
    assert kept == [1, *range(4, KEPT_COUNT + 3)], "the last, and the one that is known to be good"


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:40])


def add_a_pickle(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(pickle.dumps({"weight": 1}))


def replace_by_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.pt")


def lose_the_manifest(folder: Path) -> None:
    (folder / "MANIFEST.json").unlink()


def exchange(folder: Path) -> None:
    shutil.rmtree(folder)
    registries.weights(folder, 77.0)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip, "model.safetensors"),
        (truncate, "model.safetensors"),
        (add_a_pickle, "model.pkl"),
        (replace_by_a_pickle, "model.pt"),
        (lose_the_manifest, "MANIFEST.json"),
        (exchange, "the registry says that parity version 2 is"),
        (shutil.rmtree, "artifact-2"),
    ],
)
def test_a_damaged_artifact_is_refused_once_and_the_next_version_is_taken(
    registry: Registry, store: Store, used: str, tmp_path: Path, harm: Callable[[Path], None], reason: str
):
    add(registry, tmp_path, 1)
    follow = Watcher(store)
    follow.look()
    harm(add(registry, tmp_path, 2))
    for _ in range(3):
        assert follow.look(), "the registry itself is well"
    assert version(store) == 1
    assert store.state().refused[used].startswith("version 2: ")
    assert reason in store.state().refused[used]
    assert registry.asked["model-versions/get"] == 2, "it is not fetched in every round"
    assert not [*(store.folder / used).glob("2-*"), *(store.folder / used).glob(".incoming-*")]
    add(registry, tmp_path, 3)
    follow.look()
    assert version(store) == 3
    assert not store.state().refused


def test_a_version_that_is_wanted_again_after_another_is_refused_anew(
    registry: Registry, store: Store, used: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    add(registry, tmp_path, 1)
    follow = Watcher(store)
    follow.look()
    flip(add(registry, tmp_path, 2))
    follow.look()
    assert store.state().refused
    registry.champions["parity"] = 1
    follow.look()
    assert not store.state().refused
    registry.champions["parity"] = 2
    follow.look()
    assert store.state().refused
    assert caplog.text.count("refused, what serves serves on") == 2


@pytest.mark.parametrize("digest", ["", "../../../etc", "0" * 63])
def test_a_version_without_a_digest_is_refused(
    registry: Registry, store: Store, used: str, tmp_path: Path, digest: str
):
    source = add(registry, tmp_path, 1)
    registry.register(used, 1, source, digest)
    assert Watcher(store).look()
    assert "digest" in store.state().refused[used]
    assert version(store) == 0


@pytest.mark.parametrize("mode", MODES)
def test_what_the_store_has_stays_while_the_registry_is_away(
    registry: Registry, store: Store, used: str, tmp_path: Path, mode: str
):
    add(registry, tmp_path, 1)
    follow = Watcher(store)
    assert follow.look()
    add(registry, tmp_path, 2)
    registry.be(mode)
    assert not follow.look()
    assert not store.state().up
    assert store.state().reason
    assert version(store) == 1
    registry.be("")
    assert follow.look()
    assert store.state().up
    assert version(store) == 2


def test_an_alias_that_is_taken_away_takes_nothing_away(registry: Registry, store: Store, used: str, tmp_path: Path):
    add(registry, tmp_path, 1)
    follow = Watcher(store)
    follow.look()
    assert store.state().unnamed == []
    del registry.champions["parity"]
    assert follow.look()
    assert version(store) == 1
    assert store.state().unnamed == ["parity"]
    registry.champions["parity"] = 1
    assert follow.look()
    assert store.state().unnamed == []


def test_a_version_that_is_damaged_or_gone_on_disk_comes_again(
    registry: Registry, store: Store, used: str, tmp_path: Path
):
    add(registry, tmp_path, 1)
    follow = Watcher(store)
    follow.look()
    found = store.current(used)
    assert found
    store.discard(found)
    assert store.current(used) is None
    follow.look()
    assert store.current(used) == found
    flip(Path(found.folder))
    Watcher(store).look()
    assert watcher.artifact.verify(Path(found.folder)) == found.digest


def test_one_task_that_the_registry_talks_nonsense_about_does_not_hold_up_the_others(
    registry: Registry, store: Store, used: str, tmp_path: Path
):
    descriptor = store.use("aaa")
    registry.versions["aaa", 1] = {"name": "zzz", "version": "1"}
    registry.champions["aaa"] = 1
    add(registry, tmp_path, 1)
    follow = Watcher(store)
    assert not follow.look()
    assert not follow.look()
    assert version(store) == 1
    add(registry, tmp_path, 2)
    assert not follow.look()
    assert (version(store), store.state().up) == (2, False)
    os.close(descriptor)


def test_work_that_takes_too_long_is_given_up():
    began = time.monotonic()
    with pytest.raises(watcher.Overdue, match="no answer within 0 s"), watcher.within(0.2):
        time.sleep(10)
    assert time.monotonic() - began < 5


def test_a_champion_of_a_real_mlflow_database_is_followed(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    store = Store(str(tmp_path / "home"), tracking.uri())
    descriptor = store.use("parity")
    follow = Watcher(store)
    for number in (1, 2):
        tracker = tracking.Tracker("parity", "run")
        digest = registries.weights(tmp_path / f"artifact-{number}", number)
        source = tracker.finish({}, tmp_path / f"artifact-{number}")
        figures = {"accuracy": 1.0}
        mlflow_registry.register("parity", source, tracker.run_id, digest, figures, "accuracy", "always")
        assert follow.look()
        assert version(store) == number
    mlflow_registry.rollback("parity")
    assert follow.look()
    assert version(store) == 1
    os.close(descriptor)


def once(store: Store, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "services.watcher", "--home", store.home, "--once", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def test_a_start_takes_the_last_good_model_while_the_registry_is_away_and_says_so(
    registry: Registry, store: Store, tmp_path: Path
):
    source = tmp_path / "artifact"
    registry.register("sentiment", 4, source, registries.weights(source))
    assert watcher.fetch(store, "sentiment")[1] == ""
    registry.be("away")
    found, note = watcher.fetch(store, "sentiment")
    assert found == store.current("sentiment")
    assert note.startswith("sentiment stays at version 4, the last that served here: ")
    registry.be("")
    flip(source)
    registry.register("sentiment", 5, source, "0" * 64)
    found, note = watcher.fetch(store, "sentiment")
    assert found.version == 4
    assert "model.safetensors" in note


def test_a_start_without_registry_and_store_is_one_sentence(registry: Registry, store: Store):
    registry.be("away")
    ended = once(store, "sentiment")
    assert ended.returncode == 2, ended.stderr
    assert "no sentiment model was served before" in ended.stderr.splitlines()[-1]


@pytest.fixture
def leash(registry: Registry, store: Store) -> Iterator[Leash]:
    """What a replica holds its watcher with."""
    held = Leash(store, poll_s=0.2)
    yield held
    held.let_go()


def test_a_watcher_that_is_killed_is_started_again_and_goes_on(
    registry: Registry, store: Store, used: str, leash: Leash, tmp_path: Path
):
    add(registry, tmp_path, 1)
    leash.hold()
    first = leash.watcher_pid
    assert first
    assert eventually(lambda: version(store) == 1)
    for mode in ("hangs", "away"):
        registry.be(mode)
        assert eventually(lambda: not store.state().up)
        registry.be("")
        assert eventually(lambda: store.state().up)
    os.kill(first, signal.SIGKILL)
    add(registry, tmp_path, 2)

    def back() -> bool:
        leash.hold()
        return version(store) == 2

    assert eventually(back, 20)
    assert leash.watcher_pid != first


HOLDER = """
import sys
from services.follower import Leash
from services.store import Store
leash = Leash(Store(sys.argv[1], sys.argv[2]), 0.2)
leash.hold()
print(leash.watcher_pid, flush=True)
sys.stdin.read()
"""


def test_one_watcher_a_node_dies_with_its_replica_and_another_replica_starts_the_next(store: Store, leash: Leash):
    command = [sys.executable, "-c", HOLDER, store.home, store.uri]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        watching = psutil.Process(int(other.stdout.readline()))
        leash.hold()
        assert leash.watcher_pid is None
        other.kill()
    assert eventually(lambda: not watching.is_running() or watching.status() == psutil.STATUS_ZOMBIE)
    leash.hold()
    assert leash.watcher_pid


def test_two_registries_and_their_locks_are_apart(tmp_path: Path):
    here, there = Store(str(tmp_path), "http://here"), Store(str(tmp_path), "http://there")
    locks = [here.watch(), there.watch()]
    assert None not in locks
    assert here.watch() is None
    for lock in locks:
        assert lock is not None
        os.close(lock)


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{}/mlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("file:mlruns", "file:{}/mlruns"),
        ("./mlruns", "{}/mlruns"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_means_the_same_in_any_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, meant: str
):
    monkeypatch.chdir(tmp_path)
    assert absolute(uri) == meant.format(tmp_path)


def test_a_password_in_an_address_is_not_told():
    told = watcher.sentence(RuntimeError("no route to postgresql://me:secret@db/mlflow\nat all"))
    assert told == "RuntimeError: no route to postgresql://db/mlflow at all"
