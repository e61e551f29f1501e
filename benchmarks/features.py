"""Endpoints for benchmarks with all that a platform would turn on, or with some of it."""

import contextlib
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.collector import collecting
from benchmarks.load import Figures, Load, run
from eagerly.commands.serve import Serve, serving
from pipelines import artifact, reference
from pipelines.classifier.model import Model
from services import tokens
from services.models import Stored

DRIFT_EXAMPLES = 500
FEATURES = ("tokens", "log", "traces", "drift", "abstention", "probe", "paths")
"""What can be turned on: bearer tokens, an access log, traces of 1 %, the watch for drift, abstention, a probe port,
and the choice of the fastest exact path; without the last the model runs eager."""


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

    folder: takes the log and the tokens. flags: fields of Serve besides, such as TLS's.
    """
    token, line = tokens.issue("benchmark", ("eagerly.v1.Classifier/*",))
    listed = folder / "tokens"
    listed.write_text(line)
    with collecting() as collector, contextlib.redirect_stdout(io.StringIO()):
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
        with serving(Serve(port=0, metrics_port=0, threads=1, **flags), [stored]) as running:
            metadata = (("authorization", f"Bearer {token}"),) if "tokens" in features else ()
            yield Called(running.address, metadata, flags.get("tls_cert"))


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
