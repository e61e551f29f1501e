"""What training and serving share: texts in, labels with probabilities out.

Shapes: B texts of a batch, C labels.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.elsewhere import Compute, Elsewhere
from pipelines.examples import Data
from pipelines.schema import Arrays, Schema, Tensor
from pipelines.sentiment import encoder, stages
from pipelines.sentiment.config import Config
from pipelines.sentiment.networks import Scratch
from pipelines.sentiment.reading import Reader, Texts, alike, clean

EXAMPLES = ["A warm, funny and beautifully acted film.", "味道一般，价格贵，很失望。"]


@dataclass(frozen=True)
class Prediction:
    """All labels with their probabilities, best first."""

    labels: list[tuple[str, float]]


class Model:
    """A text classifier with everything it needs to read a text."""

    def __init__(self, network: nn.Module, reader: Reader, settings: dict[str, Any]) -> None:
        """Takes the parts; `settings` is what config.json holds."""
        self.network, self.reader, self.settings = network, reader, settings
        self.labels: list[str] = settings["labels"]
        self.device = torch.device("cpu")

    @classmethod
    def create(cls, config: Config, data: Data) -> "Model":
        """Makes an untrained model for the data's labels; with an encoder, only the head is untrained."""
        reader, labels = data.reader, data.labels  # type: ignore[attr-defined]
        settings: dict[str, Any] = {
            "labels": labels,
            "max_tokens": reader.max_tokens,
            "max_characters": config.max_characters,
            "dropout": config.dropout,
        }
        if config.encoder:
            network = encoder.pretrained(config.encoder, len(labels), config.dropout)
            return cls(network, reader, settings | {"encoder": network.describe()})
        sizes = {
            "ngrams": len(reader.keys_V),
            "vocabulary": reader.tokenizer.get_vocab_size(),
            "width": config.width,
        }
        network = Scratch(**sizes, labels=len(labels), dropout=config.dropout)
        return cls(network, reader, settings | {"scratch": sizes})

    def calibrate(self, temperature: float) -> None:
        """Makes the model as sure as its temperature says; calibration.py finds it."""
        self.settings["temperature"] = temperature

    def predict(self, inputs: list[Any]) -> list[Prediction | ValueError]:
        """Labels texts; an input that is no text, is empty or is too long gets a ValueError in its place.

        A text that is longer than the model's tokens is labelled by its beginning, as it was in training.
        """
        checked = [self._check(text) for text in inputs]
        texts = [text for text in checked if isinstance(text, str)]
        if not texts:
            return [entry for entry in checked if isinstance(entry, ValueError)]
        if self.network.training:  # eval() goes through all modules
            self.network.eval()
        with torch.inference_mode():
            logits_BC = self._logits(self.reader.read(texts).to(self.device)) / self.settings.get("temperature", 1.0)
            ranked = logits_BC.softmax(1).sort(dim=1, descending=True, stable=True)
        rows = zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)
        return [self._decode(*next(rows)) if isinstance(entry, str) else entry for entry in checked]

    def _logits(self, texts: Texts) -> torch.Tensor:
        """Computes texts together, or an encoder's on a CPU by length, where padding costs as much as text."""
        lengths_B = texts.lengths
        if "encoder" not in self.settings or self.device.type != "cpu":
            return self.network(*texts.batch(torch.arange(len(lengths_B), device=self.device))).float()
        groups = alike(lengths_B)
        logits_BC = torch.cat([self.network(*texts.batch(group_B)) for group_B in groups]).float()
        return logits_BC[torch.cat(groups).argsort()]

    def features(self, inputs: list[str], predictions: list[Prediction]) -> dict[str, list[float]]:
        """Tells drift how long the texts are, and what share of them the reader does not know."""
        texts = [clean(text) for text in inputs]
        found = self.reader.unknown(texts)
        return {"characters": [float(len(text)) for text in texts], **found}

    def _check(self, text: Any) -> str | ValueError:
        limit = self.settings["max_characters"]
        if not isinstance(text, str):
            return ValueError(f"the input is of type {type(text).__name__}; it must be a text (str)")
        if len(text) > limit:
            return ValueError(f"the text has {len(text)} characters; this model takes at most {limit}")
        try:
            return clean(text)
        except ValueError as problem:
            return problem

    def _decode(self, scores_C: list[float], places_C: list[int]) -> Prediction:
        """Names the labels of probabilities that are ranked."""
        return Prediction([(self.labels[place], score) for place, score in zip(places_C, scores_C, strict=True)])

    def examples(self) -> list[str]:
        """Gives two texts, one English and one Chinese."""
        return [text[: self.settings["max_characters"]] for text in EXAMPLES]

    def schema(self) -> Schema:
        """Describes texts in, the best label and all scores out."""
        text = Tensor("text", "BYTES", (-1,), content="text", most_characters=self.settings["max_characters"])
        label = Tensor("label", "BYTES", (-1,), content="text")
        return Schema((text,), (label, Tensor("scores", "FP32", (-1, len(self.labels)), labels=tuple(self.labels))))

    def from_tensors(self, tensors: Arrays) -> list[str]:
        """Takes a batch of texts apart."""
        return tensors["text"].tolist()

    def to_tensors(self, predictions: list[Prediction]) -> Arrays:
        """Gives the best label of each text, and the scores in the order of the model's labels."""
        best = [prediction.labels[0][0] for prediction in predictions]
        scores = [dict(prediction.labels) for prediction in predictions]
        rows = [[row[label] for label in self.labels] for row in scores]
        return {"label": np.array(best, dtype=object), "scores": np.array(rows, dtype=np.float32)}

    def to(self, device: torch.device | str) -> "Model":
        """Moves the network to a device."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def save(self, folder: Path) -> None:
        """Writes model.safetensors, config.json, tokenizer.json and ngrams.safetensors."""
        weights = {name: value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.settings, indent=2, ensure_ascii=False), encoding="utf-8")
        self.reader.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Model":
        """Reads what `save` wrote, without network access and without pickle."""
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        count, dropout = len(settings["labels"]), settings["dropout"]
        if "encoder" in settings:
            network: nn.Module = encoder.restored(settings["encoder"], count, dropout)
        else:
            network = Scratch(**settings["scratch"], labels=count, dropout=dropout)
        network.load_state_dict(load_file(folder / "model.safetensors"))
        return cls(network.eval(), Reader.load(folder, settings["max_tokens"]), settings).to(device)

    @classmethod
    def load_apart(cls, folder: Path, compute: Compute) -> "Model":
        """Reads what `save` wrote but for the network, whose place `compute` takes."""
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(Elsewhere(compute), Reader.load(folder, settings["max_tokens"]), settings)

    @classmethod
    def load_stage(cls, folder: Path, index: int, count: int) -> nn.Module:
        """Reads one of `count` parts of the network, which called in turn, tensors in and out, give the logits.

        Raises ValueError when the network cannot be split so.
        """
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if count == 1:
            return stages.Whole(cls.load(folder).network)
        if "encoder" not in settings:
            raise ValueError(f"sentiment's model has no encoder and so no layers to share out; {stages.WAY_OUT}")
        return stages.load(folder, settings, index, count)
