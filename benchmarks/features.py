"""Endpoints for benchmarks with all that a platform would turn on, or with some of it."""

import contextlib
import io
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.collector import collecting
from benchmarks.load import Figures, Load, run
from benchmarks.registry_server import Registry
from eagerly.commands.serve import Serve, serving
from pipelines import artifact, cluster, reference
from pipelines.classifier.model import Model
from services import tokens
from services.models import Stored

DRIFT_EXAMPLES = 500
FEATURES = ("tokens", "log", "traces", "drift", "abstention", "probe", "paths", "follower")
"""What can be turned on: bearer tokens, an access log, traces of 1 %, the watch for drift, abstention, a probe port,
the choice of the fastest exact path, without which the model runs eager, and a registry that is asked every second for
its champion, without which the model is handed over."""


@dataclass(frozen=True)
class Called:
    """An endpoint and what its callers must bring."""

    address: str
    metadata: tuple[tuple[str, str], ...] = ()
    ca: Path | None = None

    def load(self, request: Path, load: Load, seconds: float) -> Figures:
        """Loads it with ghz."""
        return run(self.address, request, load, seconds, metadata=self.metadata, ca=self.ca)


@contextlib.contextmanager
def endpoint(stored: Stored, folder: Path, features: Collection[str] = FEATURES, **flags: Any) -> Iterator[Called]:
    """Serves a model with these of FEATURES on; for drift the model must have a reference, as watched() gives it.

    folder: takes the log, the tokens and the follower's store. flags: fields of Serve besides, such as TLS's.
    """
    token, line = tokens.issue("benchmark", ("eagerly.v1.Classifier/*",))
    listed = folder / "tokens"
    listed.write_text(line)
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collecting())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        handed_over = None if "follower" in features else [stored]
        if handed_over is None:
            os.environ.update(cluster.private(os.environ)[0])  # Ray keeps the first token of a process, and its place
            stack.enter_context(_registered(stored, folder / "home"))
        ways: dict[str, dict[str, Any]] = {
            "tokens": {"tokens": listed},
            "log": {"access_log": str(folder / "access.jsonl")},
            "traces": {"otlp_endpoint": collector},
            "abstention": {"abstain_below": 0.5},
            "probe": {"probe_port": 0},
            "paths": {"paths": "exact"},
        }
        flags = {"paths": "eager", **flags}
        for feature in features:
            flags |= ways.get(feature, {})
        args = Serve(services=(stored.service,), port=0, metrics_port=0, threads=1, **flags)
        running = stack.enter_context(serving(args, handed_over))
        metadata = (("authorization", f"Bearer {token}"),) if "tokens" in features else ()
        yield Called(running.address, metadata, flags.get("tls_cert"))


@contextlib.contextmanager
def _registered(stored: Stored, home: Path) -> Iterator[None]:
    """Makes a model the champion of a registry of its own, which is this process's, with its store, until the end."""
    registry = Registry()
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "EAGERLY_HOME")}
    os.environ |= {"MLFLOW_TRACKING_URI": registry.uri, "EAGERLY_HOME": str(home)}
    registry.register(stored.service, stored.version, Path(stored.folder), stored.digest)
    try:
        yield
    finally:
        registry.close()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {name: value} if value is not None else {}


def watched(stored: Stored) -> Stored:
    """Adds a reference to a classifier's artifact, against which its drift is watched."""
    import torch

    folder = Path(stored.folder)
    model = Model.load(folder)
    torch.manual_seed(1)
    images = torch.randint(0, 256, (DRIFT_EXAMPLES, *model.description.shape[1:]), dtype=torch.uint8).numpy()
    found = reference.measure(model, list(images))
    assert found is not None

    def save(rough: Path) -> None:
        model.save(rough)
        (rough / reference.FILE).write_text(found.to_json(), encoding="utf-8")

    place = folder.with_name(f"{folder.name}-watched")
    return replace(stored, folder=str(place), digest=artifact.write(place, "classifier", save))
