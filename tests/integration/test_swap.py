"""Moving `champion` in MLflow swaps the model in every replica within seconds, and no call is lost."""

import contextlib
import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import swap
from eagerly.commands.serve import Running, Serve, serving

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning"),  # ray.serve's own
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # mlflow's own
]
REPLICAS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a registry of three versions, the first of which is champion."""
    folder = tmp_path_factory.mktemp("swap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("EAGERLY_HOME", str(folder / "home"))
        for number in (1, 2, 3):
            swap.register(folder, number)
        swap.promote(1)
        yield folder


@pytest.fixture(scope="module")
def running(ray_cluster: None, folder: Path) -> Iterator[Running]:
    """Two replicas that follow the registry."""
    args = Serve(services=("classifier",), port=0, metrics_port=0, replicas=REPLICAS, threads=1)
    with serving(args) as endpoint:
        yield endpoint


def watchers() -> list[psutil.Process]:
    """The watchers of this machine that serve this test's store."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "services.watcher" in words and os.environ["EAGERLY_HOME"] in words:
                found.append(process)
    return found


def test_a_promoted_version_is_in_every_replica_within_seconds_and_no_call_fails(running: Running):
    until = time.monotonic() + 20
    while not watchers() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(3)  # until it has asked for the first time
    with swap.calling(running, callers=4) as ledger:
        time.sleep(0.3)
        assert swap.swap(running, 2, REPLICAS) < 30  # benchmarks.swap holds it to 5
        time.sleep(0.3)
    assert ledger.answered > 50
    assert (ledger.failed, ledger.mixed, ledger.went_back) == ([], [], [])
    assert {seen[-1] for seen in ledger.versions[-2:] if seen} == {2}


def test_one_watcher_serves_the_node_and_its_death_is_survived(running: Running):
    (first,) = watchers()
    os.kill(first.pid, signal.SIGKILL)
    with swap.calling(running, callers=2) as ledger:
        assert swap.swap(running, 3, REPLICAS) < 30
    assert (ledger.failed, ledger.mixed, ledger.went_back) == ([], [], [])
    (second,) = watchers()
    assert second.pid != first.pid


def test_a_start_while_the_registry_is_away_serves_the_last_good_model_and_says_so(
    running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder / "mlflow.db").rename(folder / "away.db")
    (folder / "mlflow.db").write_bytes(b"this is no database" * 100)
    try:
        args = Serve(services=("classifier",), port=0, metrics_port=0, threads=1)
        with contextlib.redirect_stdout(io.StringIO()), serving(args) as other:
            (note,) = other.notes
            with swap.calling(other, callers=1) as ledger:
                time.sleep(0.3)
    finally:
        (folder / "mlflow.db").unlink()
        (folder / "away.db").rename(folder / "mlflow.db")
    assert note.startswith("classifier stays at version 3, the last that served here: ")
    assert {version for seen in ledger.versions for version in seen} == {3}
    assert ledger.failed == []
