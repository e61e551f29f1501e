"""A replica takes up what the store has, without a failed call; what is wrong with it leaves the model before."""

import contextlib
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import endpoints
import pytest
from registries import eventually

from eagerly.client import Client, Raw
from pipelines.classifier.model import Model
from services import candidates, follower, models
from services.follower import Follower
from services.models import Loaded, Loader, Stored
from services.options import Options
from services.store import State, Store

IMAGE = Raw(bytes(28 * 28), (28, 28))


@pytest.fixture
def publish(store: Store, artifacts: dict[int, tuple[Path, str]]) -> Callable[..., Stored]:
    """Puts a version into the store, harmed on the way if asked, and makes it current."""

    def put(number: int, harm: Callable[[Path], None] | None = None) -> Stored:
        source, digest = artifacts[number]
        folder = store.place("classifier", number, digest)
        if not folder.exists():
            shutil.copytree(source, folder)
        if harm:
            harm(folder)
        stored = Stored("classifier", str(folder), number, f"run-{number}", digest)
        store.publish(stored)
        return stored

    return put


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@contextlib.contextmanager
def following(store: Store, folder: Path, given: Stored, load: Loader = models.load) -> Iterator[endpoints.Endpoint]:
    """A replica as endpoint.py makes it, without Ray."""
    with endpoints.followed(Follower(store, [given], Options(poll_s=0.2), load), folder) as endpoint:
        yield endpoint


def served(endpoint: endpoints.Endpoint) -> int:
    """The version that a reply names; its labels must be that version's."""
    with Client(endpoint.address) as client:
        (result,) = client.classify([IMAGE])
    assert result.labels[0].label.startswith(f"v{result.provenance.version} ")
    return int(result.provenance.version)


def figure(endpoint: endpoints.Endpoint, start: str) -> float:
    text = urllib.request.urlopen(endpoint.metrics).read().decode()
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.split()[-1])


REFUSED = 'eagerly_model_swaps_total{outcome="refused"'
SWAPPED = 'eagerly_model_swaps_total{outcome="swapped"'


def test_a_new_version_is_served_with_its_own_labels_and_back_again(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    with following(store, tmp_path, publish(1)) as endpoint:
        assert served(endpoint) == 1
        publish(2)
        assert eventually(lambda: served(endpoint) == 2, 5)
        publish(1)
        assert eventually(lambda: served(endpoint) == 1, 5)
        assert figure(endpoint, SWAPPED) == 2
        assert figure(endpoint, REFUSED) == 0
    good = store.good("classifier")
    assert good and good.version == 1


def test_a_version_that_is_damaged_on_disk_is_refused_once_and_the_next_is_taken(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    with following(store, tmp_path, publish(1)) as endpoint:
        publish(2, flip)
        assert eventually(lambda: figure(endpoint, REFUSED) == 1, 5)
        time.sleep(1)
        assert figure(endpoint, REFUSED) == 1
        assert served(endpoint) == 1
        publish(3)
        assert eventually(lambda: served(endpoint) == 3, 5)


@pytest.mark.parametrize("starting", [False, True])
def test_a_version_that_is_whole_on_disk_again_is_taken(
    store: Store, publish: Callable[..., Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starting: bool
):
    monkeypatch.setattr(follower, "AGAIN_S", 0.2)
    first = publish(1)
    store.confirm(first)
    if starting:
        publish(2, flip)
    with following(store, tmp_path, first) as endpoint:
        damaged = publish(2) if starting else publish(2, flip)
        assert eventually(lambda: figure(endpoint, REFUSED) >= 1, 5)
        assert served(endpoint) == 1
        flip(Path(damaged.folder))
        assert eventually(lambda: served(endpoint) == 2, 5)


def test_whether_the_registry_answers_and_what_it_holds_wrongly_is_in_the_metrics(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    with following(store, tmp_path, publish(1)) as endpoint:
        assert figure(endpoint, "eagerly_registry_up") == 1
        store.tell(State(up=False, reason="no route"))
        assert eventually(lambda: figure(endpoint, "eagerly_registry_up") == 0, 5)
        store.tell(State(refused={"classifier": "version 2: a pickle"}))
        assert eventually(lambda: figure(endpoint, "eagerly_registry_up") == 1, 5)
        assert eventually(lambda: figure(endpoint, REFUSED) == 1, 5)
        assert served(endpoint) == 1


def test_a_champion_that_the_registry_no_longer_names_is_in_the_metrics(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    with following(store, tmp_path, publish(1)) as endpoint:
        champion = "eagerly_champion_present{"
        assert figure(endpoint, champion) == 1
        store.tell(State(unnamed=["classifier"]))
        assert eventually(lambda: figure(endpoint, champion) == 0, 5)
        assert served(endpoint) == 1
        store.tell(State())
        assert eventually(lambda: figure(endpoint, champion) == 1, 5)


def test_a_rollout_that_ends_is_counted_once_by_a_replica_and_not_by_the_next_one(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    rolled_back = 'eagerly_rollout_ends_total{outcome="rolled_back"'
    told = publish(1)
    with following(store, tmp_path, told) as endpoint:
        assert figure(endpoint, rolled_back) == 0
        store.tell(State(ended={"classifier": ["one", "rolled back"]}))
        assert eventually(lambda: figure(endpoint, rolled_back) == 1, 5)
        store.tell(State())
        store.tell(State(ended={"classifier": ["one", "rolled back"]}))
        time.sleep(1)
        assert figure(endpoint, rolled_back) == 1
        store.tell(State(ended={"classifier": ["two", "promoted"]}))
        assert eventually(lambda: figure(endpoint, 'eagerly_rollout_ends_total{outcome="promoted"') == 1, 5)
    with following(store, tmp_path / "next", told) as endpoint:
        time.sleep(1)
        assert figure(endpoint, 'eagerly_rollout_ends_total{outcome="promoted"') == 0


def test_a_replica_that_starts_takes_what_is_current_not_what_it_was_told_at_deployment(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    told = publish(1)
    publish(2)
    with following(store, tmp_path, told) as endpoint:
        assert served(endpoint) == 2


def test_a_replica_that_starts_on_a_damaged_version_takes_the_last_that_answered(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    store.confirm(publish(1))
    with following(store, tmp_path, publish(2, flip)) as endpoint:
        assert served(endpoint) == 1
        time.sleep(1)
        assert served(endpoint) == 1
        publish(3)
        assert eventually(lambda: served(endpoint) == 3, 5)


def shorten(inputs: list[Any]) -> list[Any]:
    return [None]


def refuse(inputs: list[Any]) -> list[Any]:
    return [None] + [ValueError("not this")] * (len(inputs) - 1)


def fail(inputs: list[Any]) -> list[Any]:
    raise RuntimeError("one at a time")


@pytest.mark.parametrize("flaw", [refuse, fail, shorten])
def test_a_version_that_only_a_full_batch_shows_to_be_wrong_keeps_no_replica_from_starting(
    store: Store,
    publish: Callable[..., Stored],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flaw: Callable[[list[Any]], list[Any]],
):
    predict = Model.predict

    def flawed(self: Model, inputs: list[Any]) -> list[Any]:
        wrong = len(inputs) > 1 and self.description.labels[0].startswith("v2 ")
        return flaw(inputs) if wrong else predict(self, inputs)

    monkeypatch.setattr(Model, "predict", flawed)
    told = publish(1)
    with following(store, tmp_path / "first", told) as endpoint:
        publish(2)
        assert eventually(lambda: figure(endpoint, REFUSED) == 1, 5)
        assert served(endpoint) == 1
    with following(store, tmp_path / "second", told) as endpoint:
        assert served(endpoint) == 1
        publish(3)
        assert eventually(lambda: served(endpoint) == 3, 5)


def test_a_replica_on_a_node_without_models_waits_for_the_watcher(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    store = replace(store, patience_s=0.5)
    elsewhere = Stored("classifier", str(tmp_path / "elsewhere"), 1, "run-1", "0" * 64)
    with pytest.raises(ValueError, match="no model of classifier has come from the registry within"):
        Follower(store, [elsewhere], Options(poll_s=0.2)).load()
    damaged = publish(1, flip)
    with pytest.raises(ValueError, match="no model of classifier"):
        Follower(store, [elsewhere], Options(poll_s=0.2)).load()
    assert not Path(damaged.folder).exists(), "so that the watcher fetches it anew"
    publish(1)
    (loaded,) = Follower(store, [elsewhere], Options(poll_s=0.2)).load()
    assert loaded.version == 1


def test_a_registry_that_is_a_stranger_to_the_disk_does_not_stop_the_following(
    store: Store, publish: Callable[..., Stored], tmp_path: Path
):
    with following(store, tmp_path, publish(1)) as endpoint:
        for text in ("", "{", '{"version": "x"}', '{"version": 1, "run_id": "r", "digest": "../.."}'):
            (store.folder / "classifier" / "current.json").write_text(text)
            (store.folder / "state.json").write_text(text)
            time.sleep(0.4)
        assert served(endpoint) == 1
        publish(2)
        assert eventually(lambda: served(endpoint) == 2, 5)


def test_calls_go_on_while_models_are_loaded_and_swapped(store: Store, publish: Callable[..., Stored], tmp_path: Path):
    waits_s: list[float] = []

    def answer(endpoint: endpoints.Endpoint) -> int:
        began = time.monotonic()
        version = served(endpoint)
        waits_s.append(time.monotonic() - began)
        return version

    with following(store, tmp_path, publish(1)) as endpoint:
        for number in (2, 3, 1, 2):
            publish(number)
            assert eventually(lambda number=number: answer(endpoint) == number, 10)
    assert len(waits_s) > 8
    assert max(waits_s) < 2


def test_the_name_of_the_own_folder_of_a_task_stays_with_the_replica(
    store: Store, publish: Callable[..., Stored], monkeypatch: pytest.MonkeyPatch
):
    given = replace(publish(1), task="somewhere")
    asked: list[Stored] = []
    monkeypatch.setattr("services.follower.models.load", asked.append)
    Follower(store, [given], Options(poll_s=0.2)).load()
    assert [one.task for one in asked] == ["somewhere"]


def test_a_version_that_hangs_in_its_load_is_refused_and_the_next_is_taken(
    store: Store, publish: Callable[..., Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(candidates, "LOAD_S", 0.3)
    monkeypatch.setattr(follower, "AGAIN_S", 0.3)
    with (
        endpoints.held_up(2) as (load, gate, tried),
        following(store, tmp_path, publish(1), load) as endpoint,
    ):
        publish(2)
        assert eventually(lambda: figure(endpoint, REFUSED) >= 2, 10)
        assert served(endpoint) == 1
        assert tried == [1, 2], "each further try would leave a thread behind"
        monkeypatch.setattr(candidates, "LOAD_S", 30.0)
        publish(3)
        assert eventually(lambda: served(endpoint) == 3, 10)
        gate.set()
        publish(2)
        assert eventually(lambda: served(endpoint) == 2, 10), "it hangs no more"


def test_a_replica_that_starts_in_a_bad_moment_counts_the_refusal_and_takes_the_champion_later(
    store: Store, publish: Callable[..., Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(follower, "AGAIN_S", 0.5)
    failed: list[int] = []

    def load(stored: Stored) -> Loaded:
        if stored.version == 2 and not failed:
            failed.append(2)
            raise MemoryError("the accelerator is full")
        return models.load(stored)

    store.confirm(publish(1))
    with following(store, tmp_path, publish(2), load) as endpoint:
        assert figure(endpoint, REFUSED) == 1
        assert eventually(lambda: served(endpoint) == 2, 10)
        assert figure(endpoint, REFUSED) == 1
