"""A replica takes a candidate up as it is told, judges it by itself, and knows after a restart what it knew."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import endpoints
import pytest
from registries import eventually

from eagerly.client import Client, Raw
from pipelines.policy import Limits, Rollout
from services import candidates, models, seats
from services.follower import Follower
from services.models import Loader, Stored
from services.options import Options
from services.seats import Told
from services.store import Store

IMAGE = Raw(bytes(28 * 28), (28, 28))
Loading = tuple[endpoints.Endpoint, threading.Event, list[int]]
LIMITS = Limits(max_slower=1000.0, least_calls=100)


@pytest.fixture
def put(store: Store, artifacts: dict[int, tuple[Path, str]]) -> Callable[[int], Stored]:
    """Puts a version into the store."""

    def copy(number: int) -> Stored:
        source, digest = artifacts[number]
        folder = store.place("classifier", number, digest)
        if not folder.exists():
            shutil.copytree(source, folder)
        return Stored("classifier", str(folder), number, f"run-{number}", digest)

    return copy


@contextlib.contextmanager
def following(store: Store, folder: Path, given: Stored, load: Loader = models.load) -> Iterator[endpoints.Endpoint]:
    """A replica as endpoint.py makes it, without Ray."""
    store.publish(given)
    follower = Follower(store, [given], Options(poll_s=0.2), load)
    with endpoints.followed(follower, folder) as endpoint:
        yield endpoint


def plan(mode: str = "canary", share: float = 0.5, id: str = "one") -> Rollout:
    return Rollout(id, 2, 1, mode, share, LIMITS, began=0.0)  # type: ignore[arg-type]


def served(endpoint: endpoints.Endpoint, calls: int = 40) -> set[str]:
    """The versions that replies name; each has that version's labels."""
    found = set()
    with Client(endpoint.address) as client:
        for _ in range(calls):
            (result,) = client.classify([IMAGE])
            assert result.labels[0].label.startswith(f"v{result.provenance.version} ")
            found.add(str(result.provenance.version))
    return found


def has_candidate(endpoint: endpoints.Endpoint) -> bool:
    return endpoint.server.slots["classifier"].trial is not None


def test_a_canary_is_taken_up_and_ended_as_told(store: Store, put: Callable[[int], Stored], tmp_path: Path):
    with following(store, tmp_path, put(1)) as endpoint:
        assert served(endpoint) == {"1"}
        seats.tell(store, "classifier", Told(plan(), put(2)))
        assert eventually(lambda: has_candidate(endpoint))
        assert served(endpoint) == {"1", "2"}
        assert eventually(lambda: [one.tally.candidate.calls > 0 for one in counts(store)] == [True])
        seats.tell(store, "classifier", None)
        assert eventually(lambda: not has_candidate(endpoint))
        assert served(endpoint) == {"1"}


def counts(store: Store, id: str = "one") -> list[seats.Count]:
    return seats.counts(store, "classifier", plan(id=id))


def test_a_promotion_takes_the_warm_candidate(store: Store, put: Callable[[int], Stored], tmp_path: Path):
    with following(store, tmp_path, put(1)) as endpoint:
        seats.tell(store, "classifier", Told(plan(), put(2)))
        assert eventually(lambda: has_candidate(endpoint))
        slot = endpoint.server.slots["classifier"]
        assert slot.trial
        warm = slot.trial.candidate
        store.publish(put(2))
        seats.tell(store, "classifier", None)
        assert eventually(lambda: slot.current is warm)
        assert served(endpoint) == {"2"}
        assert eventually(lambda: not has_candidate(endpoint))


@contextlib.contextmanager
def loading(store: Store, put: Callable[[int], Stored], folder: Path) -> Iterator[Loading]:
    """A replica of version 1 while it loads version 2 as a candidate, from a disk that waits until it is let go on."""
    with (
        endpoints.held_up(2) as (load, gate, loaded),
        following(store, folder, put(1), load) as endpoint,
    ):
        seats.tell(store, "classifier", Told(plan(), put(2)))
        assert eventually(lambda: 2 in loaded)
        yield endpoint, gate, loaded


def test_a_candidate_that_loads_slowly_delays_no_swap_which_ends_its_rollout(
    store: Store, put: Callable[[int], Stored], tmp_path: Path
):
    with loading(store, put, tmp_path) as (endpoint, gate, loaded):
        store.publish(put(3))
        assert eventually(lambda: served(endpoint, 1) == {"3"})
        gate.set()
        time.sleep(1)
        assert not has_candidate(endpoint), "it was to be compared with version 1"
        assert [thread.name for thread in threading.enumerate()].count("model-classifier") == 1
        assert served(endpoint) == {"3"}
        assert loaded == [1, 2, 3]


def test_a_candidate_that_is_promoted_while_it_loads_is_loaded_once(
    store: Store, put: Callable[[int], Stored], tmp_path: Path
):
    with loading(store, put, tmp_path) as (endpoint, gate, loaded):
        store.publish(put(2))
        time.sleep(1)
        assert served(endpoint) == {"1"}
        gate.set()
        assert eventually(lambda: served(endpoint, 1) == {"2"})
        assert not has_candidate(endpoint)
        assert loaded == [1, 2]


def test_a_rollout_that_ends_while_its_candidate_loads_is_forgotten_and_the_next_begins(
    store: Store, put: Callable[[int], Stored], tmp_path: Path
):
    with loading(store, put, tmp_path) as (endpoint, gate, loaded):
        seats.tell(store, "classifier", None)
        time.sleep(1)
        gate.set()
        time.sleep(1)
        assert not has_candidate(endpoint)
        seats.tell(store, "classifier", Told(plan(id="another"), put(2)))
        assert eventually(lambda: has_candidate(endpoint))
        assert loaded == [1, 2, 2]


def test_a_replica_ends_while_a_candidate_loads(store: Store, put: Callable[[int], Stored], tmp_path: Path):
    with loading(store, put, tmp_path):
        pass
    assert "model-classifier" not in [thread.name for thread in threading.enumerate()]


def test_a_restarted_replica_takes_the_candidate_up_again_and_counts_on(
    store: Store, put: Callable[[int], Stored], tmp_path: Path
):
    seats.tell(store, "classifier", Told(plan(), put(2)))
    with following(store, tmp_path / "first", put(1)) as endpoint:
        assert eventually(lambda: has_candidate(endpoint))
        served(endpoint)
    (before,) = counts(store)
    assert before.tally.champion.calls + before.tally.candidate.calls == 40, "the last are written at the end"
    with following(store, tmp_path / "second", put(1)) as endpoint:
        assert eventually(lambda: has_candidate(endpoint))
        assert served(endpoint) == {"1", "2"}
    (after,) = counts(store)
    assert after.tally.champion.calls + after.tally.candidate.calls == 80


def test_a_replica_stops_by_itself_and_stays_stopped_after_a_restart(
    store: Store, put: Callable[[int], Stored], tmp_path: Path
):
    seats.tell(store, "classifier", Told(plan("shadow", 1.0), put(2)))
    with following(store, tmp_path / "first", put(1)) as endpoint:
        assert eventually(lambda: has_candidate(endpoint))
        served(endpoint, calls=110)
        assert eventually(lambda: any(one.stopped.startswith("disagreement: 100.0%") for one in counts(store)))
        assert eventually(lambda: not has_candidate(endpoint)), "its memory is free again"
        assert served(endpoint) == {"1"}
    with following(store, tmp_path / "second", put(1)) as endpoint:
        time.sleep(1)
        assert not has_candidate(endpoint)
        seats.tell(store, "classifier", Told(plan(id="another"), put(2)))
        assert eventually(lambda: has_candidate(endpoint)), "another rollout begins anew"


def test_a_candidate_that_is_damaged_on_disk_is_not_tried_and_that_is_told(
    store: Store, put: Callable[[int], Stored], tmp_path: Path
):
    damaged = put(2)
    path = Path(damaged.folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with following(store, tmp_path, put(1)) as endpoint:
        seats.tell(store, "classifier", Told(plan(), damaged))
        assert eventually(lambda: [one.stopped for one in counts(store)] != [])
        assert counts(store)[0].stopped.startswith("it cannot be loaded: ")
        assert not has_candidate(endpoint)
        assert served(endpoint) == {"1"}


def test_a_candidate_that_refuses_its_own_examples_is_not_tried(
    store: Store, put: Callable[[int], Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pipelines.classifier.model import Model

    predict = Model.predict

    def refuse(self: Model, inputs: list) -> list:
        return [ValueError("not this")] * len(inputs) if len(self.description.labels) == 10 else predict(self, inputs)

    monkeypatch.setattr(Model, "predict", refuse)
    with following(store, tmp_path, put(1)) as endpoint:
        seats.tell(store, "classifier", Told(plan(), put(2)))
        assert eventually(lambda: [one.stopped for one in counts(store)] != [])
        assert "refuses its own examples: not this" in counts(store)[0].stopped
        assert served(endpoint) == {"1"}


def test_a_rollout_against_another_champion_waits_and_nonsense_on_the_disk_harms_nothing(
    store: Store, put: Callable[[int], Stored], tmp_path: Path
):
    with following(store, tmp_path, put(1)) as endpoint:
        seats.tell(store, "classifier", Told(replace(plan(), champion=9), put(2)))
        (store.folder / "classifier" / "seats").mkdir(exist_ok=True)
        (store.folder / "classifier" / "seats" / "5.json").write_text("{]")
        time.sleep(1)
        assert not has_candidate(endpoint)
        (store.folder / "classifier" / "rollout.json").write_text('{"rollout": 1}')
        time.sleep(0.5)
        seats.tell(store, "classifier", Told(plan(), put(2)))
        assert eventually(lambda: has_candidate(endpoint))
        assert served(endpoint) == {"1", "2"}


def test_a_candidate_that_hangs_in_its_load_is_stopped_and_keeps_no_rollout_or_promotion_waiting(
    store: Store, put: Callable[[int], Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(candidates, "LOAD_S", 0.3)
    with loading(store, put, tmp_path) as (endpoint, _, _):
        assert eventually(lambda: [one.stopped for one in counts(store)] != [])
        assert counts(store)[0].stopped.startswith("it cannot be loaded: it is not loaded after")
        monkeypatch.setattr(candidates, "LOAD_S", 30.0)
        seats.tell(store, "classifier", Told(replace(plan(id="next"), version=3), put(3)))
        assert eventually(lambda: has_candidate(endpoint))
        store.publish(put(2))
        time.sleep(1)
        store.publish(put(3))
        assert eventually(lambda: served(endpoint, 1) == {"3"})


def test_what_stopped_a_candidate_is_written_once_a_full_disk_has_room_again(
    store: Store, put: Callable[[int], Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full, tried, write = threading.Event(), [], seats.replace_file

    def on_disk(path: Path, facts: dict) -> None:
        tried.append(facts.get("stopped"))
        if full.is_set():
            raise OSError(28, "No space left on device")
        write(path, facts)

    with following(store, tmp_path, put(1)) as endpoint:
        seats.tell(store, "classifier", Told(plan("shadow", 1.0), put(2)))
        assert eventually(lambda: has_candidate(endpoint))
        monkeypatch.setattr(seats, "replace_file", on_disk)
        full.set()
        served(endpoint, calls=110)
        assert eventually(lambda: any(tried)), "it was stopped"
        assert eventually(lambda: not has_candidate(endpoint)), "its memory is free again"
        full.clear()
        assert eventually(lambda: any(one.stopped.startswith("disagreement: ") for one in counts(store)))
