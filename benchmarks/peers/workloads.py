"""The two models that are compared: their folders, and one item to send."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import SIDE, convnet
from services.models import Stored

TEXT = (
    "The film starts slowly, but a warm script and two brave performances turn it into one of the finest "
    "surprises of this long and otherwise forgettable year."
)
"""25 words."""


@dataclass(frozen=True)
class Workload:
    """A model and what is sent to it."""

    task: str
    stored: Stored
    item: bytes
    """Pixels of an image, or a text in UTF-8."""


def make(name: str, folder: Path) -> Workload:
    """Makes a model by its name: convnet, or encoder; both with weights that nothing has trained but MiniLM's own."""
    if name == "convnet":
        return Workload("classifier", convnet(folder), os.urandom(SIDE * SIDE))
    return Workload("sentiment", encoder(folder), TEXT.encode())


def encoder(folder: Path) -> Stored:
    """Saves MiniLM with an untrained head for two labels as a sentiment model."""
    import numpy as np
    import torch

    from benchmarks.sentiment import minilm
    from pipelines import artifact
    from pipelines.sentiment import encoder as encoders
    from pipelines.sentiment.model import Model
    from pipelines.sentiment.reading import Reader

    torch.manual_seed(0)
    source, labels = minilm(), ["negative", "positive"]
    tokenizer, max_tokens = encoders.tokenizer(source, 256)
    network = encoders.pretrained(source, len(labels), 0.0)
    settings = {"labels": labels, "max_tokens": max_tokens, "max_characters": 10_000, "dropout": 0.0}
    reader = Reader(tokenizer, np.zeros(0, dtype=np.int64), max_tokens)
    model = Model(network, reader, settings | {"encoder": network.describe()})
    return Stored("sentiment", str(folder), 1, "benchmark", artifact.write(folder, "sentiment", model.save))
