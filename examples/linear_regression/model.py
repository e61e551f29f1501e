"""y = w x + b. Shapes: B inputs."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.examples import Data

from .config import Config


class Model:
    """One weight and one bias."""

    def __init__(self, network: nn.Linear) -> None:
        """Wraps the line."""
        self.network = network

    @classmethod
    def create(cls, config: Config, data: Data) -> "Model":
        """Makes a line with random weight and bias."""
        return cls(nn.Linear(1, 1))

    def to(self, device: torch.device | str) -> "Model":
        """Moves the line to a device."""
        self.network.to(device)
        return self

    def examples(self) -> list[float]:
        """Gives two valid inputs."""
        return [0.5, 0.9]

    def predict(self, inputs: list) -> list[float | ValueError]:
        """Gives y for each x; a ValueError in place of a y whose x is no finite number."""
        good = [isinstance(x, int | float) and math.isfinite(x) for x in inputs]
        x_B1 = torch.tensor([x if ok else 0.0 for x, ok in zip(inputs, good, strict=True)]).float()[:, None]
        with torch.inference_mode():
            y_B = self.network(x_B1.to(self.network.weight.device))[:, 0].tolist()
        answers = zip(inputs, y_B, good, strict=True)
        return [y if ok else ValueError(f"x is {x!r}; it must be a finite number") for x, y, ok in answers]

    def save(self, folder: Path) -> None:
        """Writes the weights."""
        save_file(self.network.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"inputs": 1}))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Model":
        """Reads the weights."""
        model = cls(nn.Linear(1, 1))
        model.network.load_state_dict(load_file(folder / "model.safetensors"))
        return model.to(device)
