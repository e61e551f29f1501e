"""y = w x + b."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .config import Config
from pipelines.examples import Data


class Model:
    """One weight and one bias."""

    def __init__(self, network: nn.Linear) -> None:
        """Wraps the line."""
        self.network = network

    @classmethod
    def create(cls, config: Config, data: Data) -> "Model":
        """Makes a line with random weight and bias."""
        return cls(nn.Linear(1, 1))

    def to(self, device: torch.device) -> "Model":
        """Moves the line to a device."""
        self.network.to(device)
        return self

    def examples(self) -> list[float]:
        """Gives two valid inputs."""
        return [0.5, 0.9]

    def predict(self, inputs: list[float]) -> list[float | ValueError]:
        """Gives y for each x; a ValueError in place of a y whose x is not finite."""
        x_B1 = torch.tensor(inputs, dtype=torch.float32)[:, None]
        with torch.inference_mode():
            y_B = self.network(x_B1)[:, 0].tolist()
        finite = x_B1[:, 0].isfinite().tolist()
        return [y if ok else ValueError(f"x is {x}; it must be finite") for x, y, ok in zip(inputs, y_B, finite, strict=True)]

    def save(self, folder: Path) -> None:
        """Writes the weights."""
        save_file(self.network.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"inputs": 1}))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Model":
        """Reads the weights."""
        model = cls(nn.Linear(1, 1))
        model.network.load_state_dict(load_file(folder / "model.safetensors"))
        return model.to(torch.device(device))
