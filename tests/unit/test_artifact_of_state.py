"""A run publishes the weights that it has tested: the same again when it is resumed, others when it has gone on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import training

from pipelines import artifact, sealed, storage
from pipelines.mirror import Mirror
from pipelines.saving import Keeping
from pipelines.tasks import find

FLAGS: dict[str, Any] = training.PLAIN | {"batch_size": 256}
ANYWAY = Keeping(anyway=True)


class Killed(Exception):
    """Ends a run as a kill would."""


def test_a_finished_run_that_goes_on_publishes_what_it_has_learned_since(tmp_path: Path) -> None:
    first = training.train(tmp_path / "run", epochs=2, **FLAGS)
    then, before = first.named("test")[0]["digest"], first.weights
    second = training.train(tmp_path / "run", epochs=4, keeping=ANYWAY, **FLAGS)
    now = second.named("test")[0]["digest"]
    whole = training.train(tmp_path / "whole", epochs=4, **FLAGS)
    assert now != then
    assert artifact.verify(tmp_path / "run" / "artifact") == now
    assert all(torch.equal(second.weights[name], value) for name, value in whole.weights.items())
    assert any(not torch.equal(second.weights[name], value) for name, value in before.items())
    assert [path.name for path in tmp_path.glob("run/.artifact*")] == []


def test_a_run_that_is_killed_once_its_artifact_is_there_publishes_the_same_one(tmp_path: Path) -> None:
    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "test":
            raise Killed

    with pytest.raises(Killed):
        training.train(tmp_path, epochs=2, hear=kill, **FLAGS)
    manifest = tmp_path / "artifact" / sealed.MANIFEST
    written, digest = manifest.stat().st_mtime_ns, artifact.verify(tmp_path / "artifact")
    resumed = training.train(tmp_path, epochs=2, **FLAGS)
    assert resumed.losses == []
    assert resumed.named("test")[0]["digest"] == digest
    assert manifest.stat().st_mtime_ns == written


def test_a_kill_while_an_artifact_is_replaced_leaves_none_and_the_next_end_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.train(tmp_path, epochs=1, **FLAGS)

    def fail(self: Any, folder: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(find("classifier").model.Model, "save", fail)
        with pytest.raises(Killed):
            training.train(tmp_path, epochs=2, keeping=ANYWAY, **FLAGS)
    assert not (tmp_path / "artifact").exists()
    resumed = training.train(tmp_path, epochs=2, **FLAGS)
    assert artifact.verify(tmp_path / "artifact") == resumed.named("test")[0]["digest"]


def test_what_a_kill_set_aside_is_swept_and_a_damaged_artifact_is_written_anew(tmp_path: Path) -> None:
    first = training.train(tmp_path, epochs=1, **FLAGS)
    (tmp_path / ".artifact.old").mkdir()
    (tmp_path / "artifact" / "model.safetensors").write_bytes(b"cut")
    again = training.train(tmp_path, epochs=1, **FLAGS)
    assert again.named("test")[0]["digest"] == first.named("test")[0]["digest"]
    assert artifact.verify(tmp_path / "artifact") == again.named("test")[0]["digest"]
    assert not (tmp_path / ".artifact.old").exists()


def test_the_storage_gets_the_new_artifact_and_nothing_of_the_old(tmp_path: Path) -> None:
    run, there = tmp_path / "run", tmp_path / "there"

    def save(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"1")
        (folder / "config.json").write_text("{}")

    def save_more(folder: Path) -> None:
        save(folder)
        (folder / "labels.json").write_text("[]")

    run.mkdir()
    artifact.write(run / "artifact", "classifier", save_more, state="one")
    Mirror(str(there), run).close(10, whole=True)
    assert artifact.kept(run / "artifact", "two") == ""
    artifact.write(run / "artifact", "classifier", save, state="two")
    mirror = Mirror(str(there), run)
    mirror.close(10, whole=True)
    assert mirror.problems() == []
    assert artifact.verify(there / "run" / "artifact") == artifact.verify(run / "artifact")
    assert storage.Storage(str(there)).tree("run/artifact") == ["MANIFEST.json", "config.json", "model.safetensors"]
