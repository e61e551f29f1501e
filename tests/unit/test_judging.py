"""Real runs against a real champion: planted models are refused, each with its reason, and a better one is promoted."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import training
from mlflow import artifacts
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from eagerly.cli import main
from pipelines import answers, artifact, judging, loop, recorder, registry, results, runs, tasks, uploads
from pipelines.answers import Incomparable
from pipelines.classifier import images
from pipelines.classifier.data import ImageData, Images
from pipelines.journal import Journal
from pipelines.place import Place
from pipelines.results import Results
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
PLANTED = "4"


@dataclass
class Store:
    """A store with versions, and what recording each run said."""

    folder: Path
    said: dict[str, dict[str, Any]] = field(default_factory=dict)

    def train(
        self, name: str, word: str = "classifier", wrap: Callable[[Any], Any] = lambda data: data, **flags: Any
    ) -> None:
        """Trains and records a run as `eagerly train --local` does."""
        task = tasks.find(word)
        config = task.config.Config(**flags)
        run = runs.create(word, task, config, Launch(local=True, threads=1), self.folder / name)
        journal = Journal(run.folder)
        loop.run(
            task, config, run.folder, Place(threads=1), journal.append, wrap(task.data.load(uploads.brought(config)))
        )
        journal.close()
        self.record(name)

    def record(self, name: str) -> None:
        """Records the run of a folder, after it has ended."""
        closed = threading.Event()
        closed.set()
        self.said[name] = recorder.Recorder(self.folder / name).follow(closed)

    def version(self, name: str) -> registry.Version:
        told = self.said[name]["version"]
        return registry.get(told["name"], told["version"])


def without_planted(data: ImageData) -> ImageData:
    """Takes the images of a class out of the training split, so that a model never learns it."""
    train: Any = data.train
    kept_N = train.targets != data.labels.index(PLANTED)
    kept = Images(train.images[kept_N], train.targets[kept_N], train.smoothing, train.augmented, train.mirrored)
    return replace(data, train=kept)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Store]:
    """Runs of the classifier: a poor first champion, then one that lacks a class, a better one, the same, a worse."""
    folder = tmp_path_factory.mktemp("judged")
    shutil.copy(empty_store, folder / "mlflow.db")
    recipe = {"arch": "article", "batch_size": 256, "augment": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        made = Store(folder)
        made.train("first", epochs=1, lr=2e-3, **recipe)
        made.train("planted", wrap=without_planted, epochs=8, **recipe)
        made.train("better", epochs=8, **recipe)
        made.train("same", epochs=8, **recipe)
        made.train("worse", epochs=1, lr=2e-3, **recipe)
        made.train("elsewhere", epochs=8, seed=1, **recipe)
        yield made


def test_the_first_version_is_champion_and_has_no_report(store: Store) -> None:
    assert store.said["first"]["reason"] == "champion, as there was none"
    assert not (store.folder / "first" / "gate").exists()


def test_a_model_that_is_better_but_for_one_class_is_refused(store: Store) -> None:
    reason = store.said["planted"]["reason"]
    assert reason.startswith("not champion: accuracy ")
    assert f"it falls on class '{PLANTED}' (18 examples)" in reason
    assert reason.endswith("`eagerly models promote classifier 2` overrules")
    told = json.loads((store.folder / "planted" / "gate" / "verdict.json").read_text())
    assert told["difference"]["low"] > 0
    assert [one["name"] for one in told["slices"] if one["state"] == "fell"] == [PLANTED]


def test_a_better_model_is_promoted_and_the_reason_is_kept(store: Store) -> None:
    reason = store.said["better"]["reason"]
    assert reason.startswith("champion: accuracy 0.9") and "of version 1 on the same 183 test examples" in reason
    assert store.said["better"]["version"]["champion"]
    assert store.version("better").gate == reason


def test_the_same_model_is_refused(store: Store) -> None:
    assert store.said["same"]["reason"] == (
        "not champion: no better: it is the same model as version 3; `eagerly models promote classifier 4` overrules"
    )
    assert not store.version("same").champion


def test_a_worse_model_is_refused(store: Store) -> None:
    reason = store.said["worse"]["reason"]
    assert reason.startswith("not champion") and "it is worse" in reason
    assert registry.champion("classifier").version == store.version("better").version


def test_test_examples_that_the_champion_learned_from_are_left_out(store: Store) -> None:
    reason = store.said["elsewhere"]["reason"]
    seen = results.read(store.folder / "better")
    asked = results.read(store.folder / "elsewhere")
    assert seen is not None and asked is not None and seen.seen is not None and asked.prints is not None
    left = int(np.isin(asked.prints, seen.seen).sum())
    assert 140 < left < 183
    assert f"{left} of 183 test examples are left out, as version 3 learned from them" in reason
    assert f"on the same {183 - left} test examples" in reason
    page = (store.folder / "elsewhere" / "gate" / "report.html").read_text()
    assert "Version 3 learned from another split (seed 0)" in page


def test_the_report_is_in_mlflow_and_needs_no_network(store: Store, tmp_path: Path) -> None:
    folder = registry.attached(store.version("worse").run_id, "gate", tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "examples.safetensors",
        "report.html",
        "run.json",
        "verdict.json",
    }
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "<script" not in page
    assert "http:" not in page and "https:" not in page
    assert page.count("data:image/png;base64,") > 3 + 3  # three pictures, and the examples that went wrong
    assert all(text in page for text in ("it is worse", "class: 3", "Brier score", "from right to wrong"))


def test_a_version_is_judged_again_and_the_champion_before_comes_back(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    better = store.version("better").version
    registry.promote("classifier", 1)
    assert main(["models", "gate", "classifier", str(better)]) == 0
    assert f"classifier version {better}: champion: accuracy" in capsys.readouterr().out
    assert registry.champion("classifier").version == better
    assert main(["models", "rollback", "classifier"]) == 0
    assert registry.champion("classifier").version == 1
    assert main(["models", "rollback", "classifier"]) == 0
    assert registry.champion("classifier").version == better
    assert main(["models", "gate", "classifier", str(better)]) == 2
    assert "is the champion" in capsys.readouterr().err


def test_the_verdict_is_the_same_when_it_is_asked_for_again(store: Store, tmp_path: Path) -> None:
    old, new = store.version("first"), store.version("better")
    again = judging.judge(store.folder / "better", new, old, tmp_path, 60)
    assert again.reason == store.said["better"]["reason"]


def test_a_network_that_reads_the_batches_says_what_callers_are_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tasks.find("classifier").data, "test_inputs")
    found = judging.judge(store.folder / "better", store.version("better"), store.version("first"), tmp_path, 60)
    assert found.reason == store.said["better"]["reason"]
    assert "the champion's network read this run's batches" in " ".join(found.notes)


def _wrong(run_dir: Path, new: registry.Version, old: registry.Version, case: str) -> tuple[Any, Any, float]:
    """Plants what makes a comparison impossible."""
    patience_s = 0.0 if case == "slow" else 60.0
    if case == "gone":
        old = replace(old, source=str(run_dir / "nowhere"))
    if case == "another":
        old = replace(old, digest="0" * 64)
    if case == "data":
        found = results.read(run_dir)
        assert found is not None
        data = replace(tasks.find("classifier").data.load(runs.reopen(run_dir).config), digest="1" * 64)
        columns = {name: torch.from_numpy(column_N) for name, column_N in found.columns.items()}
        results.write(run_dir, columns, data, {}, None)
    if case == "damaged":
        (run_dir / results.FILE).write_bytes(b"no such thing")
    return new, old, patience_s


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("gone", "version 1 cannot be loaded"),
        ("another", "the artifact of version 1 is not the one that was registered"),
        ("data", "has changed since the run"),
        ("damaged", "cannot be read"),
        ("slow", "in the time there is; `eagerly models gate classifier VERSION` gives it more"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    store: Store, tmp_path: Path, case: str, sentence: str
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(store.folder / "better", run_dir)
    new, old, patience_s = _wrong(run_dir, store.version("better"), store.version("first"), case)
    found = judging.judge(run_dir, new, old, tmp_path, patience_s)
    assert not found.promoted
    assert found.reason.startswith("not champion: ") and sentence in found.reason
    told = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=pytest.fail)
    assert (told["promoted"], told["ours"]) == (False, None)


def test_outages_while_the_gate_judges_are_waited_out(
    store: Store, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recorder, "POLL_SECONDS", 0.1)
    made, lost = Store(tmp_path), []
    for name in ("first", "better", "elsewhere"):
        shutil.copytree(store.folder / name, tmp_path / name, ignore=shutil.ignore_patterns("mlflow.json", "gate"))
    made.record("first")
    champions = {made.version("first").run_id}

    def once(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def asked(*arguments: Any, **named: Any) -> Any:
            if name not in lost and (name == "download" or champions.intersection(arguments)):
                lost.append(name)
                raise MlflowException("busy", TEMPORARILY_UNAVAILABLE)
            return call(*arguments, **named)

        return asked

    monkeypatch.setattr(artifacts, "download_artifacts", once(artifacts.download_artifacts, "download"))
    for name in ("get_run", "download_artifacts"):
        monkeypatch.setattr(mlflow.MlflowClient, name, once(getattr(mlflow.MlflowClient, name), name))
    made.record("better")
    assert lost == ["download", "get_run"]
    assert made.said["better"]["reason"] == store.said["better"]["reason"]
    assert made.said["better"]["version"]["champion"]
    champions = {made.version("better").run_id}
    lost.clear()
    made.record("elsewhere")
    assert lost == ["download", "get_run", "download_artifacts"]
    assert "test examples were among what it learned from" in (tmp_path / "elsewhere/gate/report.html").read_text()


def test_an_outage_is_told_in_a_sentence_to_who_asks_the_gate(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*arguments: Any, **named: Any) -> Any:
        raise MlflowException("busy", TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(artifacts, "download_artifacts", away)
    worse, before = store.version("worse"), registry.champion("classifier")
    assert main(["models", "gate", "classifier", str(worse.version)]) == 2
    told = capsys.readouterr()
    assert "does not answer (MlflowException: busy)" in told.err and "Traceback" not in told.err
    assert (store.version("worse"), registry.champion("classifier")) == (worse, before)


def test_fingerprints_of_what_was_read_otherwise_are_not_said_to_be_all(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = registry.facts(store.version("better").run_id)
    monkeypatch.setattr(registry, "facts", lambda run_id: {**known, "image_size": "16"})
    found = judging.judge(store.folder / "elsewhere", store.version("elsewhere"), store.version("better"), tmp_path, 60)
    kinship = found.notes[0]
    assert kinship.startswith("Version 3 learned from another split (seed 0), read with --image-size 16 and not 0: ")
    assert kinship.endswith("more may have been, read otherwise and so not known again, which favours it.")
    found = judging.judge(store.folder / "planted", store.version("planted"), store.version("better"), tmp_path, 60)
    assert found.notes[0].startswith("Version 3 learned from another split (seed 0), read with --image-size 16 ")


def test_a_task_without_results_of_examples_is_judged_by_its_metric_alone(store: Store) -> None:
    for name, epochs in (("few", 5), ("more", 50), ("again", 5)):
        store.train(name, training.REGRESSION, epochs=epochs)
    assert store.said["more"]["reason"].startswith("champion: negative_mse -0.")
    assert "is no better than" in store.said["again"]["reason"]
    assert "by the metric alone: the task gives no example's own result" in store.said["again"]["reason"]


@pytest.mark.parametrize("word", tasks.TASKS)
def test_a_champion_answers_callers_as_it_was_tested(tmp_path: Path, word: str) -> None:
    flags = {"classifier": {"arch": "article"}, "sentiment": {"ngrams": 2_000}, "recommender": {"dim": 16}}[word]
    task = tasks.find(word)
    config = task.config.Config(epochs=1, **flags)
    run = runs.create(word, task, config, Launch(), tmp_path / "run")
    data = task.data.load(config)
    metrics = loop.run(task, config, run.folder, Place(threads=1), data=data)
    found = results.read(run.folder)
    assert found is not None and len(found) == len(data.test)
    model = task.model.Model.load(run.folder / "artifact")
    version = registry.Version(word, 1, "", artifact.verify(run.folder / "artifact"), "", metrics, "", True)
    source = answers.Source(run, data, model, version, time.monotonic() + 60)
    told = source.ask([*range(len(found))], found, found.labels)
    for name, column_N in told.items():
        assert column_N == pytest.approx(found.columns[name], abs=1e-5), name
    scores_N = answers.scores({**found.columns, **told}, task.train.PRIMARY)
    assert scores_N is not None and scores_N.mean() == pytest.approx(metrics[task.train.PRIMARY], abs=1e-9)
    assert all(len(names) > 1 and len(code_N) == len(found) for names, code_N in found.slices.values())
    assert (
        set(found.slices) == {"classifier": set(), "sentiment": {"script", "length"}, "recommender": {"activity"}}[word]
    )


def test_a_run_of_uploaded_images_is_held_against_one_that_streamed_them(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    digits = tasks.find("classifier").data.load(tasks.find("classifier").config.Config()).train
    for at in range(600):
        path = tmp_path / "digits" / str(int(digits.targets[at])) / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.to_png(digits.images[at].numpy()))
    address, _ = uploads.send(tmp_path / "digits", (tmp_path / "storage").as_uri())
    made, recipe = Store(tmp_path), {"arch": "article", "augment": False}
    made.train("streamed", data=str(tmp_path / "digits"), stream=True, epochs=1, lr=1e-4, **recipe)
    made.train("uploaded", data=address, epochs=8, **recipe)
    assert made.said["uploaded"]["reason"].startswith("champion: accuracy 0.")
    assert "learned from the same training split" in (tmp_path / "uploaded" / "gate" / "report.html").read_text()


def _labelled(labels: list[str], target: list[int]) -> Results:
    return Results({"target": np.array(target)}, labels, {}, "")


def test_examples_of_a_label_that_the_champion_lacks_are_left_out() -> None:
    kept_N, notes = answers.comparable(_labelled(["cat", "dog", "owl"], [0, 1, 2, 1]), ["dog", "cat"], 1)
    assert kept_N.tolist() == [True, True, False, True]
    assert notes == ["Version 1 does not know the labels 'owl', which 1 of 4 test examples have: they are left out."]


def test_a_version_that_lost_a_label_or_shares_few_is_refused() -> None:
    with pytest.raises(Incomparable, match="version 1 knows the labels 'owl', which the new version does not"):
        answers.comparable(_labelled(["cat", "dog"], [0, 1]), ["dog", "cat", "owl"], 1)
    with pytest.raises(Incomparable, match="does not know the labels 'dog', 'owl', which 3 of 4 test examples have"):
        answers.comparable(_labelled(["cat", "dog", "owl"], [0, 1, 2, 1]), ["cat"], 1)


def test_refused_inputs_count_as_wrong() -> None:
    class Answer:
        labels = (("dog", 0.75), ("cat", 0.25))

    told = answers.labelled([Answer(), ValueError("too long")], ["cat", "dog"], [1, 0])
    assert told["guess"].tolist() == [1, 2]
    assert told["confidence"].tolist() == [0.75, 0.0]
    assert told["brier"].tolist() == pytest.approx([0.125, 1.0])


def test_results_are_gathered_in_the_order_of_the_split_from_two_ranks(tmp_path: Path, pair: training.Pair) -> None:
    settings: dict[str, Any] = training.PLAIN | {"epochs": 1}
    training.train(tmp_path / "one", **settings)
    pair.run(training.train_ranked, tmp_path / "two", settings)
    one, two = results.read(tmp_path / "one"), results.read(tmp_path / "two")
    assert one is not None and two is not None
    assert one.columns["target"].tolist() == two.columns["target"].tolist()
    assert one.columns["confidence"] == pytest.approx(two.columns["confidence"], abs=1e-3)


def test_slices_that_do_not_fit_the_split_are_refused(tmp_path: Path) -> None:
    task = tasks.find("classifier")
    data = task.data.load(task.config.Config())
    with pytest.raises(ValueError, match=r"slices\(\) gives 1 names of 'ink'; the test split has 183 examples"):
        results.write(tmp_path, {"target": torch.zeros(183)}, data, {"ink": ["dark"]}, None)


@pytest.mark.parametrize(("number", "name"), [(50, "up to 50 bits"), (51, "51 to 99 bits"), (100, "over 99 bits")])
def test_bands_are_named_by_their_edges(number: int, name: str) -> None:
    assert results.bands([number], [50, 99], "bits") == [name]


@pytest.mark.parametrize(
    ("text", "script"), [("Good!", "latin"), ("很好吃 ok", "cjk"), ("Хорошо", "cyrillic"), ("10/10 :)", "no letters")]
)
def test_a_text_is_told_by_the_script_of_most_of_its_letters(text: str, script: str) -> None:
    assert tasks.find("sentiment").data.script(text) == script
