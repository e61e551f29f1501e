"""The model as every peer runs it: the same weights, the same code, one thread; a body in, a short answer out.

Imported by the peers' servers in environments of their own: the standard library, torch and pipelines only.
"""

import os
from pathlib import Path
from typing import Any

MAX_BATCH = 64
"""Most items computed together, as in our endpoint."""
TOP = 3


def batch() -> tuple[int, float]:
    """Reads from PEER_BATCH and PEER_WAIT_S how many items make a batch, and for how many seconds one is awaited."""
    return int(os.environ.get("PEER_BATCH", MAX_BATCH)), float(os.environ.get("PEER_WAIT_S", "0.01"))


class Served:
    """The model in the folder PEER_MODEL, of the task PEER_TASK, warmed up."""

    def __init__(self) -> None:
        """Loads the model and computes a single item and a full batch."""
        import torch

        from pipelines import tasks

        torch.set_num_threads(1)
        self._text = os.environ["PEER_TASK"] == "sentiment"
        self._model = tasks.find(os.environ["PEER_TASK"]).model.Model.load(Path(os.environ["PEER_MODEL"]))
        example = Path(os.environ["PEER_ITEM"]).read_bytes()
        for count in (1, MAX_BATCH):
            self.answer([example] * count)

    def answer(self, items: list[bytes]) -> list[list[tuple[str, float]]]:
        """Gives the best labels of each item: pixels of a square grey image, or a text in UTF-8."""
        return [one.labels[:TOP] for one in self._model.predict([self._decode(item) for item in items])]

    def _decode(self, item: bytes) -> Any:
        import numpy as np

        if self._text:
            return item.decode()
        side = int(len(item) ** 0.5)
        return np.frombuffer(item, np.uint8).reshape(side, side)
