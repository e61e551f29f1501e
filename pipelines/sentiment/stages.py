"""The encoder in parts, each of which reads only its own tensors from the artifact, for models larger than a process.

Shapes: B texts, T tokens, D the encoder's width, C labels.
"""

import re
from functools import cache
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipelines.sentiment import encoder

_LAYER = re.compile(r"backbone\.encoder\.layer\.(\d+)\.")
WAY_OUT = "give --apart sentiment, which keeps it in one piece"


class Stage(nn.Module):
    """Consecutive layers of an encoder, with the embeddings before the first and the head after the last."""

    def __init__(self, whole: encoder.Encoder, layers: range, is_first: bool, is_last: bool) -> None:
        """Takes an encoder on torch's meta device and lets go of what is not the stage's."""
        super().__init__()
        backbone = whole.backbone
        if is_first:  # made anew: its tables of positions are in no file
            backbone.embeddings = type(backbone.embeddings)(backbone.config)
        else:
            backbone.embeddings = _Given()
        own = [layer if at in layers else _Nothing() for at, layer in enumerate(backbone.encoder.layer)]
        backbone.encoder.layer = nn.ModuleList(own)
        self.backbone = backbone
        self.head = whole.head if is_last else None
        self.is_first = is_first

    def forward(self, first: Tensor, tokens_BT: Tensor, *_: Tensor) -> list[Tensor]:
        """Gives hidden states [B, T, D] and the tokens for the next stage, or the logits [B, C] of the last.

        first: the hidden states of the stage before; the first stage is called as the whole network is, tokens first.
        """
        tokens_BT = first if self.is_first else tokens_BT
        real_BT = tokens_BT >= 0
        start = {"input_ids": tokens_BT.clamp(min=0)} if self.is_first else {"inputs_embeds": first}
        hidden_BTD = self.backbone(**start, attention_mask=real_BT.long()).last_hidden_state
        if self.head is None:
            return [hidden_BTD, tokens_BT]
        return [self.head(encoder.mean(hidden_BTD, real_BT))]


class Whole(nn.Module):
    """A network in one piece, called as stages are."""

    def __init__(self, network: nn.Module) -> None:
        """Takes the network."""
        super().__init__()
        self.network = network

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        """Gives the logits [B, C]."""
        return [self.network(*tensors)]


class _Given(nn.Module):
    """Stands for embeddings that an earlier stage has computed."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Tensor:
        return inputs_embeds


class _Nothing(nn.Module):
    """Stands for a layer that another stage computes."""

    def forward(self, hidden_BTD: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_BTD


def load(folder: Path, settings: dict[str, Any], index: int, count: int) -> Stage:
    """Reads one of `count` stages of about equal weight, and of the weights' file no other tensor.

    settings: what config.json holds. Raises ValueError when the model cannot be split so.
    """
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        units = _units(file)
        if count > len(units):
            raise ValueError(f"--apart sentiment={count}: the model has {len(units)} parts to share out; ask for fewer")
        cuts = (0, *_cuts(tuple(sum(sizes.values()) for sizes in units), count), len(units))
        names = [name for sizes in units[cuts[index] : cuts[index + 1]] for name in sizes]
        with torch.device("meta"):
            whole = encoder.restored(settings["encoder"], len(settings["labels"]), settings["dropout"])
        # Unit 0 is the embeddings, unit 1 the first layer, and the last unit the head.
        layers = range(max(0, cuts[index] - 1), cuts[index + 1] - 1)
        stage = Stage(whole, layers, is_first=index == 0, is_last=index == count - 1)
        stage.load_state_dict({name: file.get_tensor(name) for name in names}, assign=True)
    left = [name for name, one in chain(stage.named_parameters(), stage.named_buffers()) if one.is_meta]
    if left:
        raise ValueError(f"--apart sentiment={count}: {left[0]} of the encoder is in no file; {WAY_OUT}")
    return stage.eval()


def _units(file: Any) -> list[dict[str, int]]:
    """Finds what cannot be split further, in the order it is computed: its tensors and their number of elements."""
    units: dict[int, dict[str, int]] = {}
    names = list(file.keys())
    layers = 1 + max((int(found[1]) for name in names if (found := _LAYER.match(name))), default=-1)
    for name in names:
        layer = _LAYER.match(name)
        if not (layer or name.startswith(("backbone.embeddings.", "head."))):
            raise ValueError(f"sentiment's model has {name} and so no layers that can be shared out; {WAY_OUT}")
        at = int(layer[1]) + 1 if layer else layers + 1 if name.startswith("head.") else 0
        units.setdefault(at, {})[name] = prod(file.get_slice(name).get_shape())
    return [units[at] for at in sorted(units)]


def _cuts(sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Finds where to cut so that the largest of `count` parts is as small as can be."""

    @cache
    def best(start: int, parts: int) -> tuple[int, tuple[int, ...]]:
        if parts == 1:
            return sum(sizes[start:]), ()
        tries = []
        for at in range(start + 1, len(sizes) - parts + 2):
            rest, cuts = best(at, parts - 1)
            tries.append((max(sum(sizes[start:at]), rest), (at, *cuts)))
        return min(tries)

    return best(0, count)[1]
