"""An image classifier as training and serving share it: encode -> network -> decode.

Shapes: B images, C colours, H height, W width, K classes.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pipelines.classifier import images, networks
from pipelines.schema import Arrays, Schema, Tensor

if TYPE_CHECKING:
    from pipelines.classifier.config import Config
    from pipelines.classifier.data import ImageData


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image."""

    labels: list[tuple[str, float]]
    """Every class with its probability, best first."""


@dataclass(frozen=True)
class Description:
    """What rebuilds the network before its weights are read."""

    arch: str
    labels: list[str]
    shape: list[int]
    """C, H and W."""
    dropout: float
    expected: list[str]
    """The classes of the two examples."""
    temperature: float = 1.0
    """What logits are divided by, so that probabilities mean what they say; calibration.py finds it."""


class Model:
    """Classifies PNG or JPEG files and arrays of pixels."""

    def __init__(self, description: Description, network: networks.Classifier, examples_NCHW: torch.Tensor) -> None:
        """Joins a network with the names of its classes and two examples, uint8 [2, C, H, W]."""
        self.description = description
        self.network = network
        self.examples_NCHW = examples_NCHW

    @classmethod
    def create(cls, config: "Config", data: "ImageData") -> "Model":
        """Makes an untrained model for the data; its weights come from torch's global generator.

        Raises ValueError for an unknown --arch or unusable --pretrained weights.
        """
        network = networks.build(config.arch, data.shape, len(data.labels), config.dropout)
        if config.pretrained:
            from pipelines.classifier import backbones

            backbones.start_from(network, config.pretrained, config.arch)
        network.mean.copy_(torch.tensor(data.mean).view(1, -1, 1, 1))
        network.std.copy_(torch.tensor(data.std).view(1, -1, 1, 1))
        shown = data.valid.batch(torch.tensor([0, len(data.valid) - 1]), None)
        expected = [data.labels[target] for target in shown.targets.tolist()]
        description = Description(config.arch, data.labels, list(data.shape), config.dropout, expected)
        return cls(description, network, shown.images.clone())

    @property
    def expected(self) -> list[str]:
        """The true classes of `examples()`."""
        return self.description.expected

    def calibrate(self, temperature: float) -> None:
        """Makes the model as sure as its temperature says."""
        self.description = replace(self.description, temperature=temperature)

    def predict(self, inputs: list) -> list[Prediction | ValueError]:
        """Classifies each input: a PNG or JPEG file's bytes, or uint8 pixels of the model's own shape.

        Pixels are [H, W], [H, W, 1] or [H, W, 3]. A bad input gets a ValueError in its place.
        """
        encoded = [self._encode(one) for one in inputs]
        good = [one for one in encoded if isinstance(one, np.ndarray)]
        rows = iter(self._ranked(good) if good else [])
        return [one if isinstance(one, ValueError) else self._decode(*next(rows)) for one in encoded]

    def features(self, inputs: list, predictions: list[Prediction]) -> dict[str, list[float]]:
        """Tells drift how bright the images are and how much their pixels differ, both 0 to 1."""
        pixels = [one_CHW for one in inputs if isinstance(one_CHW := self._encode(one), np.ndarray)]
        pixels_BN = np.stack(pixels).reshape(len(pixels), -1) / np.float32(255)
        return {"brightness": pixels_BN.mean(1).tolist(), "contrast": pixels_BN.std(1).tolist()}

    def _encode(self, one: object) -> np.ndarray | ValueError:
        colours, height, width = self.description.shape
        if isinstance(one, bytes):
            try:
                return images.pixels(images.open_picture(one), (colours, height, width))
            except ValueError as error:
                return error
        if not isinstance(one, np.ndarray) or one.dtype != np.uint8:
            kind = f"an array of {one.dtype}" if isinstance(one, np.ndarray) else f"a {type(one).__name__}"
            return ValueError(f"the image is {kind}; it must be bytes of a PNG or JPEG file or an array of uint8")
        shapes = [(height, width, colours)] + ([(height, width)] if colours == 1 else [])
        if one.shape not in shapes:
            return ValueError(f"the image's shape is {one.shape}; this model takes {' or '.join(map(str, shapes))}")
        return one.reshape(height, width, colours).transpose(2, 0, 1)

    def _ranked(self, images_BCHW: list[np.ndarray]) -> Iterator[tuple[list[float], list[int]]]:
        """Gives each image's probabilities, best first, and whose they are."""
        if self.network.training:  # eval() goes through all modules
            self.network.eval()
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(images_BCHW)).to(self.network.mean.device)
            logits_BK = self.network(batch).float() / self.description.temperature
            ranked = logits_BK.softmax(1).sort(dim=1, descending=True, stable=True)
            return zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)

    def _decode(self, scores_K: list[float], places_K: list[int]) -> Prediction:
        labels = self.description.labels
        return Prediction([(labels[place], score) for place, score in zip(places_K, scores_K, strict=True)])

    def examples(self) -> list[bytes | np.ndarray]:
        """Returns two images of the validation split: one as a PNG file, one as pixels."""
        first_CHW, second_CHW = self.examples_NCHW.numpy()
        second_HWC = np.ascontiguousarray(second_CHW.transpose(1, 2, 0))
        return [images.to_png(first_CHW), second_HWC]

    def schema(self) -> Schema:
        """Describes pixels in, the best label and all scores out."""
        colours, height, width = self.description.shape
        pixels = (height, width) if colours == 1 else (height, width, colours)
        labels = tuple(self.description.labels)
        return Schema(
            (Tensor("image", "UINT8", (-1, *pixels)),),
            (
                Tensor("label", "BYTES", (-1,), content="text"),
                Tensor("scores", "FP32", (-1, len(labels)), labels=labels),
            ),
        )

    def from_tensors(self, tensors: Arrays) -> list[np.ndarray]:
        """Takes a batch of images apart."""
        return list(tensors["image"])

    def to_tensors(self, predictions: list[Prediction]) -> Arrays:
        """Gives the best label of each image, and the scores in the order of the model's labels."""
        best = [prediction.labels[0][0] for prediction in predictions]
        scores = [dict(prediction.labels) for prediction in predictions]
        rows = [[row[label] for label in self.description.labels] for row in scores]
        return {"label": np.array(best, dtype=object), "scores": np.array(rows, dtype=np.float32)}

    def to(self, device: torch.device | str) -> "Model":
        """Moves the network to a device."""
        self.network.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Writes model.safetensors, examples.safetensors and config.json."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        save_file({"images": self.examples_NCHW.contiguous()}, folder / "examples.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.description), indent=2, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Model":
        """Reads what `save` wrote."""
        description = Description(**json.loads((folder / "config.json").read_text()))
        colours, height, width = description.shape
        network = networks.build(
            description.arch, (colours, height, width), len(description.labels), description.dropout
        )
        network.load_state_dict(load_file(folder / "model.safetensors"))
        network.eval()
        return cls(description, network, load_file(folder / "examples.safetensors")["images"]).to(device)
