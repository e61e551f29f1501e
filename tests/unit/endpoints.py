"""Endpoints for tests: the real server on a thread of this process, with small real models or one made for the test."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import torch

from services import models
from services.follower import Follower
from services.models import Loaded, Loader, Stored
from services.options import Options
from services.server import Server
from services.service import find


class Endpoint:
    """A server and the event loop it runs on."""

    def __init__(self, models: list[Loaded], folder: Path, **options: Any) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        settings = Options(**{"port": 0, "metrics_port": 0, "drain_s": 5.0, **options})
        self.server = self.run(self._make(settings, models))

    async def _make(self, options: Options, models: list[Loaded]) -> Server:
        return Server(options, models, self.folder)

    def run(self, work: Coroutine[Any, Any, Any], timeout_s: float = 20.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.server.metrics_port}/metrics"

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextlib.contextmanager
def serving(models: list[Loaded], folder: Path, **options: Any) -> Iterator[Endpoint]:
    endpoint = Endpoint(models, folder, **options)
    try:
        endpoint.run(endpoint.server.start())
        yield endpoint
    finally:
        endpoint.run(endpoint.server.drain())
        endpoint.close()


@contextlib.contextmanager
def followed(follower: Follower, folder: Path) -> Iterator[Endpoint]:
    """A replica as services/endpoint.py makes it, without Ray."""
    with serving(follower.load(), folder / "metrics") as endpoint:
        endpoint.run(follower.follow(endpoint.server))
        try:
            yield endpoint
        finally:
            endpoint.run(follower.close())


@contextlib.contextmanager
def held_up(version: int) -> Iterator[tuple[Loader, threading.Event, list[int]]]:
    """A loader that keeps one version waiting until the event is set, or the block ends; and the versions it took."""
    gate, taken = threading.Event(), list[int]()

    def load(stored: Stored) -> Loaded:
        taken.append(stored.version)
        assert stored.version != version or gate.wait(60)
        return models.load(stored)

    try:
        yield load, gate, taken
    finally:
        gate.set()


def loaded(name: str, model: Any) -> Loaded:
    return Loaded(name, find(name), model, version=7, run_id="run-of-" + name, digest="0123abcd" * 8)


@functools.cache
def real_models() -> tuple[Loaded, ...]:
    """Small real models, as they are before any training."""
    return loaded("classifier", classifier()), loaded("sentiment", _sentiment()), loaded("recommender", _recommender())


def classifier() -> Any:
    from pipelines.classifier import networks
    from pipelines.classifier.model import Description, Model

    torch.manual_seed(0)
    labels = [str(digit) for digit in range(10)]
    shown = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    network = networks.build("convnet", (1, 28, 28), 10, 0.0)
    return Model(Description("convnet", labels, [1, 28, 28], 0.0, ["0", "1"]), network, shown)


def _sentiment() -> Any:
    from pipelines.sentiment import data, model
    from pipelines.sentiment.config import Config

    return model.Model.create(Config(), data.load(Config()))


def _recommender() -> Any:
    from pipelines.recommender import data, model
    from pipelines.recommender.config import Config

    return model.Model.create(Config(), data.load(Config()))


def trailers(call: Any) -> dict[str, Any]:
    """The trailing metadata of a call, or of the error that ended it."""
    return dict(call.trailing_metadata() or ())


class Gate:
    """A sentiment model that answers once its gate is open, and fails on the word that it is told to fail on."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.computing = threading.Event()
        self.seen: list[list[str]] = []

    def examples(self) -> list[str]:
        return ["first", "second"]

    def predict(self, texts: list[str]) -> list[Any]:
        from pipelines.sentiment.model import Prediction

        self.seen.append(texts)
        self.computing.set()
        self.open.wait(10)
        if "explode" in texts:
            raise RuntimeError("secret of the model")
        return [Prediction([(text, 1.0)]) for text in texts]

    @property
    def computed(self) -> list[str]:
        return [text for texts in self.seen for text in texts]
