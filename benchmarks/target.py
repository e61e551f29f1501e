"""A server without Ray, in a process of its own, that fuzzing and attacks are let loose on.

    python -m benchmarks.target SETTINGS

SETTINGS is JSON: fields of services.options.Options, `models`, the tasks to serve (eagerly's three and the fuzzer's own
without it), and `watched`, whether their drift is watched. The models are small and untrained. Prints a line of JSON,
see Target, and serves until it is killed.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services import memory, transport

SIDE = 28
TASKS = ("classifier", "sentiment", "recommender")
OWN = "datatypes"
"""A task as a user may have one, of benchmarks/fuzzing/datatypes.py: Open Inference alone serves it."""
DRIFT_EXAMPLES = 500


@dataclass(frozen=True)
class Target:
    """A server that runs, and the facts about its models that a caller may know."""

    address: str
    pid: int
    label_counts: dict[str, int]
    """How many labels classifier and sentiment tell apart."""
    user_ids: list[str]
    """The users that the recommender knows."""
    item_ids: list[str]
    """Its whole catalogue."""
    schemas: dict[str, Any]
    """The tensors of each model, as its artifact's schema.json has them."""


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Target]:
    """Runs a server with these settings, and kills it at the end."""
    command = [sys.executable, "-m", "benchmarks.target", json.dumps(settings)]
    environment = os.environ | memory.ENVIRONMENT | transport.ENVIRONMENT
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Target(**json.loads(process.stdout.readline()))
        finally:
            process.kill()


async def serve(settings: dict[str, Any]) -> None:
    """Serves until the process is killed."""
    from services.options import Options
    from services.server import Server

    names, watched = settings.pop("models", (*TASKS, OWN)), settings.pop("watched", False)
    models = {name: model(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        options = Options(**{"port": 0, "metrics_port": 0, **settings})
        loaded = [_loaded(name, model, watched) for name, model in models.items()]
        server = Server(options, loaded, Path(folder))
        await server.start()
        print(json.dumps(asdict(facts(server.port, models))), flush=True)
        await asyncio.Event().wait()


def model(name: str) -> Any:
    """Makes a small model with random weights."""
    import importlib

    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    if name == OWN:
        from benchmarks.fuzzing import datatypes

        return datatypes.Model()
    if name == "classifier":
        from pipelines.classifier import networks
        from pipelines.classifier.model import Description, Model

        labels = [str(digit) for digit in range(10)]
        shown_NCHW = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8)
        network = networks.build("convnet", (1, SIDE, SIDE), len(labels), 0.0)
        return Model(Description("convnet", labels, [1, SIDE, SIDE], 0.0, labels[:2]), network, shown_NCHW)
    parts = {part: importlib.import_module(f"pipelines.{name}.{part}") for part in ("config", "data", "model")}
    settings = parts["config"].Config()
    return parts["model"].Model.create(settings, parts["data"].load(settings))


def reference_of(name: str, model: Any) -> Any:
    """Measures what a model's drift is watched against: random images, or the inputs of its own data."""
    import importlib

    import numpy as np

    from pipelines import reference

    if name == "classifier":
        images = np.random.default_rng(0).integers(0, 256, (DRIFT_EXAMPLES, SIDE, SIDE, 1), dtype=np.uint8)
        return reference.measure(model, list(images))
    config, data = (importlib.import_module(f"pipelines.{name}.{part}") for part in ("config", "data"))
    return reference.measure(model, data.inputs(data.load(config.Config())))


def _loaded(name: str, model: Any, watched: bool) -> Any:
    from services.models import Loaded
    from services.service import find

    kept = reference_of(name, model) if watched else None
    return Loaded(name, find(name), model, version=1, run_id="target", digest="0" * 64, reference=kept)


def facts(port: int, models: dict[str, Any]) -> Target:
    """Gathers the facts about models that this process serves."""
    import os

    labels = {"classifier": 10} if "classifier" in models else {}
    if "sentiment" in models:
        labels["sentiment"] = len(models["sentiment"].labels)
    catalogue = models["recommender"].catalogue if "recommender" in models else None
    users, items = (catalogue.user_ids, catalogue.item_ids) if catalogue else ([], [])
    schemas = {name: json.loads(model.schema().to_json()) for name, model in models.items()}
    return Target(f"127.0.0.1:{port}", os.getpid(), labels, users, items, schemas)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1]) if sys.argv[1:] else {}))
