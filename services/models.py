"""Models: where one lies on this machine, and what it is once it is in memory."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines import conversion, tasks
from pipelines.reference import Reference
from pipelines.schema import Schema
from services.service import Service, find


@dataclass(frozen=True)
class Stored:
    """A model folder on this machine, and where it came from."""

    service: str
    """The task's name."""
    folder: str
    version: int
    run_id: str
    digest: str
    """SHA-256 of MANIFEST.json, in hexadecimal."""
    task: str = ""
    """The folder of a user's own task, absolute; empty for one of eagerly's."""


@dataclass(frozen=True)
class Loaded:
    """A model in memory, with the typed service that it answers for."""

    name: str
    """The task's name."""
    service: Service | None
    """None for a task of the user's own, which the generic RPCs alone serve."""
    model: Any
    """A task's Model: predict(inputs) and examples()."""
    version: int
    run_id: str
    digest: str
    schema: Schema | None = None
    """The schema of its artifact; None for one that was written without."""
    reference: Reference | None = None
    """What its drift is measured against; None for an artifact without."""

    @cached_property
    def conversion(self) -> conversion.Conversion:
        """How the model speaks tensors; where its artifact and its code do not say, it predicts its examples for it.

        Raises ValueError when no tensor can hold what it takes or gives.
        """
        return conversion.of(self.model, self.schema)

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """The provenance that every reply carries as trailing metadata."""
        return (
            ("eagerly-model", self.name),
            ("eagerly-model-version", str(self.version)),
            ("eagerly-run-id", self.run_id),
            ("eagerly-model-digest", self.digest),
        )


Loader = Callable[[Stored], Loaded]
"""Brings a model into memory; raises ValueError as load() does."""
Maker = Callable[[Any, Path], Any]
"""Makes a model of a task's class from its folder: (the class, the folder)."""


def load(stored: Stored, device: str = "cpu", make: Maker | None = None) -> Loaded:
    """Reads a model into memory and onto a device.

    make: how, where it is not the class's own load(). Raises ValueError when its folder is not what its digest says,
    when no tensor can hold what it takes or gives, or when the device cannot be used.
    """
    from pipelines import artifact, reference

    folder = _verified(stored)
    kind, service = tasks.find(stored.task or stored.service).model.Model, find(stored.service)
    model = make(kind, folder) if make else placed(kind.load(folder), device)
    kept = (artifact.schema_of(folder), reference.read(folder))
    loaded = Loaded(stored.service, service, model, stored.version, stored.run_id, stored.digest, *kept)
    assert loaded.conversion  # now, on the caller's thread, rather than when the first call comes
    return loaded


def load_stage(stored: Stored, index: int, count: int, device: str = "cpu") -> Any:
    """Reads one of `count` parts of a model's network onto a device: a torch module, tensors in and a list of them out.

    Raises ValueError when the task's models cannot be taken apart, or for the reasons of load().
    """
    kind = tasks.find(stored.task or stored.service).model.Model
    if not (hasattr(kind, "load_stage") and hasattr(kind, "load_apart")):
        raise ValueError(f"--apart {stored.service}: its Model has no load_apart() and load_stage(); leave it out")
    return placed(kind.load_stage(_verified(stored), index, count), device)


def _verified(stored: Stored) -> Path:
    """Finds a model's folder to be what its digest says; raises Corrupt when it is not."""
    from pipelines import artifact, sealed

    folder = Path(stored.folder)
    digest = artifact.verify(folder)
    if digest != stored.digest:
        raise sealed.Corrupt(f"the model in {stored.folder} has the digest {digest}; {stored.digest} was expected")
    return folder


def placed(model: Any, device: str) -> Any:
    """Moves a model to a device; raises ValueError when torch cannot use it."""
    if device == "cpu":
        return model
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        reason = "no driver, or a torch without CUDA" if torch.version.cuda else "this torch is built without CUDA"
        raise ValueError(f"--gpu: torch finds no GPU that it can use here ({reason}); leave out --gpu")
    return model.to(device)


def home() -> Path:
    """The folder of state and caches: $EAGERLY_HOME, or ~/.eagerly."""
    return Path(os.environ.get("EAGERLY_HOME") or Path.home() / ".eagerly").resolve()
