"""Says of a text of 0s and 1s whether its 1s are even or odd in number. Shapes: L bits of a text."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipelines.examples import Data

from .config import Config
from .network import Reader


class Model:
    """Encodes a text as bits, reads them, and answers "even" or "odd"."""

    def __init__(self, width: int) -> None:
        """Makes the network."""
        self.width, self.network = width, Reader(width)

    @classmethod
    def create(cls, config: Config, data: Data) -> "Model":
        """Makes an untrained model."""
        return cls(config.width)

    def to(self, device: torch.device | str) -> "Model":
        """Moves the network to a device."""
        self.network.to(device)
        return self

    def examples(self) -> list[str]:
        """Gives two valid inputs."""
        return ["1", "0110100"]

    def predict(self, inputs: list) -> list[str | ValueError]:
        """Answers each text; a ValueError in place of one that is not of 0s and 1s."""
        return [self._answer(text) for text in inputs]

    @torch.inference_mode()
    def _answer(self, text: object) -> str | ValueError:
        if not isinstance(text, str) or not text or set(text) - {"0", "1"}:
            return ValueError(f"the text is {text!r}; it must be of 0s and 1s, at least one")
        bits_1L = torch.tensor([[int(bit) for bit in text]], device=self.network.bit.weight.device)
        scores_12 = self.network(bits_1L, torch.tensor([len(text)], device=bits_1L.device))
        return ("even", "odd")[int(scores_12.argmax())]

    def save(self, folder: Path) -> None:
        """Writes the weights, and what rebuilds the network."""
        save_file(self.network.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"width": self.width, "labels": ["even", "odd"]}))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Model":
        """Reads what `save` wrote."""
        model = cls(json.loads((folder / "config.json").read_text())["width"])
        model.network.load_state_dict(load_file(folder / "model.safetensors"))
        return model.to(device)
