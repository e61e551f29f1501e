"""Versions and the champion, in a real MLflow store."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines import artifact, registry, tracking
from pipelines.verdict import Verdict

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Any:
    """A store with one run, whose artifact every version below is made of."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        tracker = tracking.Tracker("classifier", "run")
        digest = artifact.write(folder / "artifact", "classifier", _save)
        source = tracker.finish({}, folder / "artifact")
        yield {"source": source, "run_id": tracker.run_id, "digest": digest, "folder": folder}


def _save(folder: Path) -> None:
    save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"labels": []}))


def _run() -> str:
    import mlflow

    return mlflow.MlflowClient(tracking.uri()).create_run("0").info.run_id


def _register(
    store: Any,
    name: str,
    accuracy: float,
    promotion: str = "gate",
    run_id: str = "",
    judge: registry.Judge | None = None,
) -> tuple[registry.Version, str]:
    metrics = {"accuracy": accuracy, "loss": 1 - accuracy}
    facts = (name, store["source"], run_id or _run(), store["digest"], metrics, "accuracy", promotion)
    return registry.register(*facts, judge)


def test_the_first_version_becomes_champion(store: Any) -> None:
    version, reason = _register(store, "first", 0.5)
    assert (version.version, version.champion, version.digest) == (1, True, store["digest"])
    assert version.metrics == {"accuracy": 0.5, "loss": 0.5}
    assert reason == "champion, as there was none"
    assert registry.champion("first") == version
    assert "first" in registry.names()


def test_by_the_metric_alone_the_champion_moves_only_to_a_better_version(store: Any) -> None:
    _register(store, "moves", 0.8)
    worse, reason = _register(store, "moves", 0.7)
    assert not worse.champion and reason == worse.gate
    assert reason == (
        "not champion: accuracy 0.7000 is no better than 0.8000 of version 1, by the metric alone; "
        "`eagerly models promote moves 2` overrules"
    )
    same, reason = _register(store, "moves", 0.8)
    assert not same.champion and "accuracy 0.8000 is no better than 0.8000" in reason
    better, reason = _register(store, "moves", 0.9)
    assert better.champion and reason == (
        "champion: accuracy 0.9000 is better than 0.8000 of version 1, by the metric alone"
    )
    assert registry.champion("moves").version == 4
    assert [version.champion for version in registry.versions("moves")] == [True, False, False, False]


def test_a_champion_that_changed_while_the_gate_judged_stays(store: Any) -> None:
    _register(store, "raced", 0.1)
    _register(store, "raced", 0.1)

    def judge(new: registry.Version, old: registry.Version) -> Verdict:
        registry.promote("raced", 2)
        return Verdict(True, f"champion in place of version {old.version}")

    new, reason = _register(store, "raced", 0.9, judge=judge)
    assert not new.champion and registry.champion("raced").version == 2
    assert reason.startswith("not champion: version 2 became champion while it was judged")


def _cut_short(store: Any, name: str, metric: float) -> str:
    """Registers a version for which nothing is decided, as the judge dies; returns its run."""
    run_id = _run()

    def dies(new: registry.Version, old: registry.Version) -> Verdict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _register(store, name, metric, run_id=run_id, judge=dies)
    return run_id


def test_a_registration_that_was_cut_short_in_the_gate_is_taken_up_again(store: Any) -> None:
    _register(store, "cut", 0.1)
    run_id = _cut_short(store, "cut", 0.9)
    assert not registry.get("cut", 2).champion
    again, _ = _register(store, "cut", 0.9, run_id=run_id)
    assert (again.version, again.champion) == (2, True)


WRITES = ("create_registered_model", "create_model_version", "set_model_version_tag")
WRITES += ("set_registered_model_tag", "set_registered_model_alias")


def _lose(patch: pytest.MonkeyPatch, number: int, is_done: bool) -> None:
    """Loses the answer of a client's write, counted from 1, which the store has done or was never asked."""
    import mlflow

    made = itertools.count(1)

    def lossy(call: Callable[..., Any]) -> Callable[..., Any]:
        def write(self: Any, *arguments: Any, **named: Any) -> Any:
            is_lost = next(made) == number
            if is_lost and not is_done:
                raise ConnectionError("refused")
            answer = call(self, *arguments, **named)
            if is_lost:
                raise ConnectionError("the answer was lost")
            return answer

        return write

    for name in WRITES:
        patch.setattr(mlflow.MlflowClient, name, lossy(getattr(mlflow.MlflowClient, name)))


@pytest.mark.parametrize("is_done", [True, False], ids=["answer", "request"])
@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        ([], "champion, as there was none"),
        ([0.1], "champion: accuracy 0.9000 is better than 0.1000 of version 1, by the metric alone"),
    ],
    ids=["first", "better"],
)
def test_a_promotion_that_loses_any_of_its_calls_says_the_same_when_it_is_tried_again(
    store: Any, before: list[float], sentence: str, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lost in itertools.count(1):
        name, run_id = f"lost-{len(before)}-{is_done}-{lost}", _run()
        for accuracy in before:
            _register(store, name, accuracy)
        with monkeypatch.context() as patch:
            _lose(patch, lost, is_done)
            try:
                _register(store, name, 0.9, run_id=run_id)
            except ConnectionError:
                pass
            else:  # it makes no more calls
                assert lost > 4
                return
        new, reason = _register(store, name, 0.9, run_id=run_id)
        assert reason.removeprefix("registered before: ") == new.gate == sentence, lost
        assert new.champion and len(registry.versions(name)) == len(before) + 1
        assert [registry.rollback(name).version for _ in before] == [1] * len(before)
        with pytest.raises(ValueError, match="has no earlier champion"):
            registry.rollback(name)


def test_a_promotion_that_was_cut_short_asks_the_judge_no_second_time(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(store, "judged", 0.1)
    run_id, asked = _run(), []

    def judge(new: registry.Version, old: registry.Version) -> Verdict:
        asked.append((new.version, old.version))
        return Verdict(True, f"champion in place of version {old.version}")

    with monkeypatch.context() as patch:
        _lose(patch, 4, True)  # after the version, what was decided, and the champion before
        with pytest.raises(ConnectionError):
            _register(store, "judged", 0.9, run_id=run_id, judge=judge)
    assert registry.champion("judged").version == 2 and not registry.get("judged", 2).gate
    _, reason = _register(store, "judged", 0.9, run_id=run_id, judge=judge)
    assert reason == "champion in place of version 1" and asked == [(2, 1)]


def test_a_promotion_that_was_cut_short_is_decided_anew_where_the_champion_changed_since(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(store, "since", 0.1)
    _register(store, "since", 0.05)
    run_id = _run()
    with monkeypatch.context() as patch:
        _lose(patch, 3, False)  # after the version and what was decided
        with pytest.raises(ConnectionError):
            _register(store, "since", 0.9, run_id=run_id)
    registry.promote("since", 2)
    _, reason = _register(store, "since", 0.9, run_id=run_id)
    assert "is better than 0.0500 of version 2" in reason and registry.champion("since").version == 3


def test_a_promotion_that_was_carried_out_is_not_repeated_for_a_version_that_is_judged_again(store: Any) -> None:
    _register(store, "stale", 0.1)
    new, _ = _register(store, "stale", 0.9)
    registry.rollback("stale")
    refused = [registry.settle(registry.get("stale", new.version), "gate", _refuse)[1] for _ in range(2)]
    assert all(reason.startswith("not champion: worse now") for reason in refused)
    assert registry.champion("stale").version == 1


def _refuse(new: registry.Version, old: registry.Version) -> Verdict:
    return Verdict(False, "not champion: worse now")


def test_a_version_that_people_promoted_before_it_was_judged_is_not_held_against_itself(store: Any) -> None:
    _register(store, "itself", 0.1)
    run_id = _cut_short(store, "itself", 0.9)
    registry.promote("itself", 2)
    new, reason = _register(store, "itself", 0.9, run_id=run_id)
    assert new.champion and reason == "champion already when it was to be judged"


def test_a_metric_that_is_no_number_does_not_become_champion(store: Any) -> None:
    _register(store, "nan", 0.1)
    version, _ = _register(store, "nan", float("nan"))
    assert not version.champion


def test_promotion_can_be_forced_or_forbidden(store: Any) -> None:
    never, reason = _register(store, "forced", 0.9, "never")
    assert not never.champion and "--promote never" in reason
    with pytest.raises(
        ValueError, match=r"no champion for forced in sqlite:.*; `eagerly train forced` trains and registers one"
    ):
        registry.champion("forced")
    assert _register(store, "forced", 0.8)[0].champion
    always, reason = _register(store, "forced", 0.1, "always")
    assert always.champion and "in place of version 2" in reason


def test_promote_and_rollback_go_back_step_by_step(store: Any) -> None:
    for accuracy in (0.1, 0.2, 0.3):
        _register(store, "back", accuracy)
    assert registry.promote("back", 1).champion
    assert [registry.rollback("back").version for _ in range(3)] == [3, 2, 1]
    with pytest.raises(
        ValueError, match="back has no earlier champion; `eagerly models promote back VERSION` picks one"
    ):
        registry.rollback("back")
    assert registry.champion("back").version == 1


def test_promoting_the_champion_changes_nothing(store: Any) -> None:
    _register(store, "again", 0.1)
    registry.promote("again", 1)
    with pytest.raises(ValueError, match="no earlier champion"):
        registry.rollback("again")


def test_an_unknown_version_or_model_names_those_there_are(store: Any) -> None:
    _register(store, "known", 0.1)
    with pytest.raises(ValueError, match="known has no version 9; it has 1"):
        registry.promote("known", 9)
    with pytest.raises(ValueError, match=r"no model 'unknown' in sqlite:.*; there are: .*known"):
        registry.get("unknown", 1)
    assert registry.versions("unknown") == []


def test_a_run_that_is_registered_again_makes_no_second_version(store: Any) -> None:
    first, _ = _register(store, "once", 0.1, run_id=store["run_id"])
    again, reason = _register(store, "once", 0.1, run_id=store["run_id"])
    assert again == first
    assert reason == "registered before: champion, as there was none"


def test_a_download_is_the_artifact_that_was_registered(store: Any, tmp_path: Path) -> None:
    version, _ = _register(store, "download", 0.1)
    registry.download(version, tmp_path / "models" / "one")
    assert artifact.verify(tmp_path / "models" / "one") == version.digest
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["one"]
