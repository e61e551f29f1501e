"""With every feature on, the benchmarks' endpoint serves what a registry names and asks it again and again."""

import os
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.features import endpoint, watched
from benchmarks.serving import SIDE, convnet
from eagerly.client import Client, Raw

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning"),  # ray.serve's own
]


def watchers(home: str) -> list[list[str]]:
    """The commands that follow a registry for a folder of models."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [words for words in commands if {"services.watcher", home} <= set(words)]


def test_the_endpoint_with_all_features_serves_a_registrys_champion_and_follows_it(ray_cluster: None, tmp_path: Path):
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "EAGERLY_HOME")}
    with endpoint(watched(convnet(tmp_path / "model")), tmp_path) as called:
        (_, bearer), *_ = called.metadata
        with Client(called.address, token=bearer.removeprefix("Bearer ")) as client:
            assert not client.classify([Raw(bytes(SIDE * SIDE), (SIDE, SIDE))])[0].error
        until = time.monotonic() + 30
        while not (found := watchers(str(tmp_path / "home"))) and time.monotonic() < until:
            time.sleep(0.2)
        assert ["--poll-s" in words for words in found] == [True]
    assert {name: os.environ.get(name) for name in before} == before
