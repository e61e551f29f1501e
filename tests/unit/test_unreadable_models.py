"""A model that cannot be read for a moment is not taken for a damaged one: it stays on the disk, and is read later."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import endpoints
import pytest
import registries

from pipelines import artifact, sealed
from pipelines.registry import Version
from services import follower, models, watcher
from services.follower import Follower
from services.models import Stored
from services.options import Options
from services.store import Store

Refuse = Callable[[Path, int], list[Path]]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Has the reading of a file fail so many times, as it does in a process with too many files open."""

    def begin(path: Path, count: int) -> list[Path]:
        read, refused = Path.read_text, list[Path]()

        def fail(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
            if self == path and len(refused) < count:
                refused.append(path)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(self))
            return read(self, encoding, errors)

        monkeypatch.setattr(Path, "read_text", fail)
        return refused

    return begin


@pytest.fixture
def publish(store: Store, artifacts: dict[int, tuple[Path, str]]) -> Callable[[int], Stored]:
    """Puts a version into the store and makes it current."""

    def put(number: int) -> Stored:
        source, digest = artifacts[number]
        folder = store.place("classifier", number, digest)
        shutil.copytree(source, folder)
        stored = Stored("classifier", str(folder), number, f"run-{number}", digest)
        store.publish(stored)
        return stored

    return put


def manifest(stored: Stored) -> Path:
    return Path(stored.folder) / sealed.MANIFEST


def version(endpoint: endpoints.Endpoint) -> int:
    return endpoint.server.slots["classifier"].current.loaded.version


def test_a_manifest_that_cannot_be_read_now_is_no_verdict(tmp_path: Path, refuse: Refuse):
    digest = registries.weights(tmp_path / "model")
    refuse(tmp_path / "model" / sealed.MANIFEST, 1)
    with pytest.raises(OSError, match="Too many open files"):
        artifact.verify(tmp_path / "model")
    assert artifact.verify(tmp_path / "model") == digest


@pytest.mark.parametrize("starting", [False, True])
def test_a_champion_that_a_replica_cannot_read_now_is_taken_later(
    store: Store, publish: Callable[[int], Stored], refuse: Refuse, monkeypatch: pytest.MonkeyPatch, starting: bool
):
    monkeypatch.setattr(follower, "AGAIN_S", 0.0)
    first = publish(1)
    store.confirm(first)
    second = publish(2)
    if not starting:
        store.publish(first)
    failed = refuse(manifest(second), 1)
    following = Follower(store, [first], Options(poll_s=0.2))
    with endpoints.followed(following, store.folder) as endpoint:
        store.publish(second)
        assert registries.eventually(lambda: version(endpoint) == 2, 10)
    assert len(failed) == 1


def test_a_replica_that_cannot_read_its_only_model_leaves_it_on_the_disk(
    store: Store, publish: Callable[[int], Stored], refuse: Refuse
):
    only = publish(1)
    refuse(manifest(only), 1)
    with pytest.raises(OSError, match="Too many open files"):
        Follower(store, [only], Options(poll_s=0.2)).load()
    (loaded,) = Follower(store, [only], Options(poll_s=0.2)).load()
    assert loaded.version == 1


def test_a_watcher_that_cannot_read_a_model_here_does_not_fetch_it_anew(
    store: Store, publish: Callable[[int], Stored], refuse: Refuse, monkeypatch: pytest.MonkeyPatch
):
    here = publish(1)
    monkeypatch.setattr(watcher.registry, "download", lambda *given: pytest.fail("it is here"))
    wanted = Version("classifier", 1, "run-1", here.digest, "there", {}, "accuracy", True)
    refuse(manifest(here), 1)
    with pytest.raises(OSError, match="Too many open files"):
        watcher.bring(store, wanted)
    assert watcher.bring(store, wanted) == here


def test_a_folder_that_is_away_or_of_another_digest_is_refused_as_corrupt_and_so_tried_again(
    publish: Callable[[int], Stored],
):
    stored = publish(1)
    with pytest.raises(sealed.Corrupt, match="was expected"):
        models.load(replace(stored, digest="0" * 64))
    shutil.rmtree(stored.folder)
    with pytest.raises(sealed.Corrupt, match="there is no artifact folder"):
        models.load(stored)


def test_an_artifact_of_before_that_cannot_be_read_is_written_anew(tmp_path: Path, refuse: Refuse):
    registries.weights(tmp_path / "model")
    refuse(tmp_path / "model" / sealed.MANIFEST, 1)
    assert artifact.kept(tmp_path / "model", "a state") == ""
    assert not (tmp_path / "model").exists()
