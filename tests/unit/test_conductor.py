"""The watcher brings candidates to its node, sums what replicas counted, and ends a rollout once for all."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import registries

from benchmarks.registry_server import Registry
from pipelines import registry as mlflow_registry
from pipelines import rollout
from pipelines.policy import Limits, Role, Rollout, Tally
from services import conductor, seats
from services.seats import Count, Seat
from services.store import Store
from services.watcher import Watcher


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(conductor, "REPORT_S", 0.0)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """A registry with parity 1 to 3, the first of which is champion."""
    served = Registry()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    for number in (3, 2, 1):
        folder = tmp_path / f"artifact-{number}"
        served.register("parity", number, folder, registries.weights(folder, number))
    yield served
    served.close()


@pytest.fixture
def node(registry: Registry, tmp_path: Path) -> Iterator[Store]:
    """A node with a replica that serves parity."""
    store = Store(str(tmp_path / "home"), registry.uri)
    descriptor = store.use("parity")
    yield store
    os.close(descriptor)


@pytest.fixture
def start(registry: Registry) -> Callable[..., Rollout]:
    """Writes a rollout of version 2 into the registry, as `eagerly rollout start` does."""

    def write(id: str = "one", mode: str = "shadow") -> Rollout:
        made = Rollout(id, 2, 1, mode, 0.5, Limits(least_calls=100), began=0.0)  # type: ignore[arg-type]
        registry.tags["parity"] = {rollout.TAG: made.to_json()}
        return made

    return write


def stands(registry: Registry) -> Rollout:
    return Rollout.from_json(registry.tags["parity"][rollout.TAG])


def count(store: Store, tally: Tally, id: str = "one", stopped: str = "") -> Seat:
    """Counts as a replica does."""
    seat = Seat(store, "parity")
    seat.write(Count(id, tally, stopped))
    return seat


def tally(calls: int, errors: int) -> Tally:
    return Tally(Role(calls), Role(calls, errors))


def test_a_candidate_comes_into_the_store_and_replicas_are_told(
    registry: Registry, node: Store, start: Callable[..., Rollout]
):
    watcher = Watcher(node)
    assert watcher.look()
    assert seats.told(node, "parity") is None
    made = start()
    assert watcher.look()
    told = seats.told(node, "parity")
    assert told and told.rollout == made
    assert told.candidate and told.candidate.version == 2
    assert Path(told.candidate.folder).is_dir()
    current = node.current("parity")
    assert current and current.version == 1
    registry.asked.clear()
    assert watcher.look()
    assert registry.asked == {"registered-models/get": 1}, "a round without news is still one call"
    registry.tags["parity"] = {rollout.TAG: made.ended("aborted", "by hand").to_json()}
    assert watcher.look()
    assert seats.told(node, "parity") is None


def test_two_replicas_figures_are_summed_reported_and_judged(
    registry: Registry, node: Store, start: Callable[..., Rollout]
):
    made, watcher = start(), Watcher(node)
    watcher.look()
    both = [count(node, tally(500, 10)), count(node, tally(500, 10))]
    assert watcher.look()
    (report,) = rollout.reports(registry.tags["parity"], made).values()
    assert (report.replicas, report.tally.candidate.calls, report.tally.candidate.errors) == (2, 1000, 20)
    assert stands(registry).state == "running", "2 % of 1000 may be chance"
    both[0].write(Count("one", tally(500, 60)))
    assert watcher.look()
    assert stands(registry).state == "rolled back"
    assert stands(registry).reason.startswith("errors: 70 of 1000 calls failed, against 0 of 1000 of version 1")
    watcher.look()
    assert seats.told(node, "parity") is None
    assert node.state().ended == {"parity": ["one", "rolled back"]}
    for seat in both:
        seat.close()


def test_what_one_replica_finds_stops_all_and_says_why(registry: Registry, node: Store, start: Callable[..., Rollout]):
    start()
    watcher = Watcher(node)
    watcher.look()
    seat = count(node, tally(3, 1), stopped="latency: 9 ms a call against 1 ms")
    assert watcher.look()
    assert (stands(registry).state, stands(registry).reason) == ("rolled back", "latency: 9 ms a call against 1 ms")
    seat.close()


def test_figures_of_other_nodes_count_and_the_first_verdict_stands(
    registry: Registry, node: Store, start: Callable[..., Rollout], tmp_path: Path
):
    start()
    other = Store(str(tmp_path / "other"), registry.uri)
    descriptor = other.use("parity")
    watchers = [Watcher(node), Watcher(other)]
    for watcher in watchers:
        watcher.look()
    here, there = count(node, tally(600, 18)), count(other, tally(600, 18))
    watchers[0].look()
    assert stands(registry).state == "running"
    watchers[1].look()
    assert stands(registry).state == "rolled back"
    first = registry.tags["parity"][rollout.TAG]
    for watcher in watchers * 2:
        assert watcher.look()
    assert node.state().ended == other.state().ended == {"parity": ["one", "rolled back"]}
    late = Store(str(tmp_path / "late"), registry.uri)
    its_own = late.use("parity")
    assert Watcher(late).look() and late.state().ended == {}, "it is no news to a node that came afterwards"
    os.close(its_own)
    assert registry.tags["parity"][rollout.TAG] == first
    here.close()
    there.close()
    os.close(descriptor)


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.pkl")


@pytest.mark.parametrize(("harm", "reason"), [(flip, "model.safetensors"), (pickled, "model.pkl")])
def test_a_candidate_that_is_corrupt_or_pickled_ends_the_rollout(
    registry: Registry,
    node: Store,
    start: Callable[..., Rollout],
    tmp_path: Path,
    harm: Callable[[Path], None],
    reason: str,
):
    harm(tmp_path / "artifact-2")
    start()
    assert Watcher(node).look()
    assert stands(registry).state == "rolled back"
    assert stands(registry).reason.startswith("version 2 is refused: ")
    assert reason in stands(registry).reason
    current = node.current("parity")
    assert current and current.version == 1


def test_a_candidate_that_cannot_be_read_is_tried_again_and_the_problem_is_told(
    registry: Registry, node: Store, start: Callable[..., Rollout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(conductor, "LONGEST_PAUSE_S", 0.0)
    (tmp_path / "artifact-2").rename(tmp_path / "elsewhere")
    made, watcher = start(), Watcher(node)
    assert watcher.look()
    assert watcher.look()
    (report,) = rollout.reports(registry.tags["parity"], made).values()
    assert report.problem.startswith("version 2 cannot be fetched: ")
    (tmp_path / "elsewhere").rename(tmp_path / "artifact-2")
    assert watcher.look()
    told = seats.told(node, "parity")
    assert told and told.candidate
    assert stands(registry).state == "running"


@pytest.mark.parametrize(("champion", "state"), [(2, "promoted"), (3, "superseded")])
def test_a_champion_that_is_moved_by_hand_ends_the_rollout(
    registry: Registry, node: Store, start: Callable[..., Rollout], champion: int, state: str
):
    start()
    watcher = Watcher(node)
    watcher.look()
    registry.champions["parity"] = champion
    assert watcher.look()
    current = node.current("parity")
    assert current and current.version == champion
    assert (stands(registry).state, stands(registry).reason) == (
        state,
        f"champion was moved from version 1 to {champion}",
    )


def test_a_registry_that_takes_no_tags_does_not_keep_a_node_from_stopping(
    registry: Registry, node: Store, start: Callable[..., Rollout]
):
    start()
    registry.is_read_only = True
    watcher = Watcher(node)
    watcher.look()
    seat = count(node, tally(3, 1), stopped="errors: many")
    assert watcher.look(), "the registry answers"
    told = seats.told(node, "parity")
    assert told and told.rollout.state == "rolled back"
    assert Watcher(node).look(), "another watcher of the node goes on from there"
    told = seats.told(node, "parity")
    assert told and told.rollout.state == "rolled back"
    registry.is_read_only = False
    assert Watcher(node).look()
    assert (stands(registry).state, stands(registry).reason) == ("rolled back", "errors: many")
    seat.close()


def test_the_registry_away_changes_nothing_and_nonsense_in_a_tag_is_no_rollout(
    registry: Registry, node: Store, start: Callable[..., Rollout]
):
    start()
    watcher = Watcher(node)
    watcher.look()
    before = seats.told(node, "parity")
    registry.be("away")
    assert not watcher.look()
    assert seats.told(node, "parity") == before
    registry.be("")
    registry.tags["parity"][rollout.TAG] = "{]"
    assert watcher.look()
    assert seats.told(node, "parity") is None


def test_a_rollout_that_followed_is_not_ended_in_its_place(registry: Registry, start: Callable[..., Rollout]):
    first = start("one")
    second = start("two")
    assert not rollout.end("parity", first, "rolled back", "late")
    assert stands(registry) == second
    assert rollout.end("parity", second, "rolled back", "x" * 9000)
    assert len(registry.tags["parity"][rollout.TAG]) < 1000
    assert not rollout.end("parity", second, "rolled back", "again")


def test_nodes_beyond_the_most_have_no_room_in_the_tags(registry: Registry, start: Callable[..., Rollout]):
    made = start()
    for number in range(rollout.MOST_NODES + 3):
        aim = mlflow_registry.aim("parity")
        assert aim
        rollout.report("parity", f"node-{number}", rollout.Report(made.id, 1), aim)
    assert len(rollout.reports(registry.tags["parity"], made)) == rollout.MOST_NODES


def test_a_replica_that_is_followed_by_another_has_its_figures_taken_on(node: Store):
    first, second = count(node, tally(5, 1)), count(node, tally(7, 2))
    first.close()
    third = Seat(node, "parity")
    plan = Rollout("one", 2, 1, "shadow", 0.5, Limits(), 0.0)
    assert third.count(plan).tally.candidate.calls == 5
    assert third.count(replace(plan, id="another")).tally.candidate.calls == 0
    assert sum(one.tally.candidate.calls for one in seats.counts(node, "parity", plan)) == 12
    second.close()
    third.close()


def test_candidates_of_rollouts_that_have_ended_do_not_fill_the_disk(registry: Registry, node: Store, tmp_path: Path):
    watcher = Watcher(node)
    assert watcher.look()
    for number in range(4, 9):
        folder = tmp_path / f"artifact-{number}"
        registry.register("parity", number, folder, registries.weights(folder, number))
        registry.champions["parity"] = 1
        made = Rollout(f"rollout-{number}", number, 1, "shadow", 0.5, Limits(), began=0.0)
        registry.tags["parity"] = {rollout.TAG: made.to_json()}
        assert watcher.look()
        told = seats.told(node, "parity")
        assert told and told.candidate and told.candidate.version == number
        rollout.end("parity", made, "aborted", "enough")
        assert watcher.look()
        assert len(kept(node)) <= 3
        assert "1" in kept(node), "the champion stays"


def kept(store: Store) -> list[str]:
    return [path.name.partition("-")[0] for path in (store.folder / "parity").glob("*-*") if path.is_dir()]
