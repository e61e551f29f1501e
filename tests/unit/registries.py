"""Artifacts of versions for tests, and waiting; the registry itself is benchmarks/registry_server.py."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import artifact


def weights(folder: Path, content: float = 1.0) -> str:
    """Writes an artifact that loads as no model, but verifies; returns its digest."""
    import torch
    from safetensors.torch import save_file

    def save(rough: Path) -> None:
        save_file({"weight": torch.full((64,), content)}, rough / "model.safetensors")
        (rough / "config.json").write_text(json.dumps({"labels": []}))

    return artifact.write(folder, "classifier", save)


def classifier(folder: Path, labels: list[str]) -> str:
    """Writes the classifier's artifact, with labels by which its replies are known; returns its digest."""
    import torch

    from pipelines.classifier import networks
    from pipelines.classifier.model import Description, Model

    torch.manual_seed(0)
    shown = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    network = networks.build("convnet", (1, 28, 28), len(labels), 0.0)
    model = Model(Description("convnet", labels, [1, 28, 28], 0.0, labels[:2]), network, shown)
    return artifact.write(folder, "classifier", model.save)


def eventually(met: Callable[[], Any], within_s: float = 15.0) -> bool:
    """Waits until something is so; returns whether it came to be in time."""
    until = time.monotonic() + within_s
    while not met():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
