"""Versions and the champion, in a real MLflow store."""

import json
import shutil
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


def test_a_registration_that_was_cut_short_in_the_gate_is_taken_up_again(store: Any) -> None:
    _register(store, "cut", 0.1)
    run_id = _run()

    def dies(new: registry.Version, old: registry.Version) -> Verdict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _register(store, "cut", 0.9, run_id=run_id, judge=dies)
    assert not registry.get("cut", 2).champion
    again, _ = _register(store, "cut", 0.9, run_id=run_id)
    assert (again.version, again.champion) == (2, True)


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
