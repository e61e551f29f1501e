"""What a model takes and gives, as named tensors: Open Inference publishes it, and checks calls by it.

It lies in the artifact as schema.json.
"""

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
"""Tensors by name. An element of BYTES is a `str` where the tensor's content is text or json, else `bytes`."""

BYTES = "BYTES"
FLOATS = ("FP16", "FP32", "FP64")
DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    BYTES: np.object_,
}
"""The protocol's names of element types, and numpy's."""
CONTENTS = ("", "text", "json")


@dataclass(frozen=True)
class Tensor:
    """One part of every item of a batch, or of every prediction."""

    name: str
    datatype: str
    """One of DATATYPES."""
    shape: tuple[int, ...]
    """The length of each dimension, -1 for any; the first counts the items and is -1."""
    content: str = ""
    """What elements of BYTES hold: text or json, both in UTF-8; empty for any bytes."""
    lowest: float | None = None
    """Least value allowed."""
    highest: float | None = None
    """Greatest value allowed."""
    most_bytes: int | None = None
    """Length of the longest element of BYTES."""
    most_characters: int | None = None
    """Length of the longest text."""
    optional: bool = False
    """Whether a request may leave the tensor out."""
    labels: tuple[str, ...] = ()
    """What the last dimension of scores counts."""

    def __post_init__(self) -> None:
        """Raises ValueError for a datatype, shape or content that the protocol does not have."""
        if self.datatype not in DATATYPES:
            raise ValueError(f"tensor {self.name!r} is of {self.datatype!r}; it must be one of {', '.join(DATATYPES)}")
        if not self.shape or self.shape[0] != -1 or any(length < 1 and length != -1 for length in self.shape):
            raise ValueError(
                f"tensor {self.name!r} has the shape {list(self.shape)}; it must begin with -1, the number of items, "
                "and go on with lengths, or -1 for any"
            )
        if self.content not in (CONTENTS if self.datatype == BYTES else ("",)):
            raise ValueError(f"tensor {self.name!r} of {self.datatype} holds {self.content!r}; only BYTES hold text")

    @property
    def is_text(self) -> bool:
        """Whether elements must be UTF-8."""
        return self.content != ""


@dataclass(frozen=True)
class Schema:
    """The tensors of one model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        """Raises ValueError when there is no input or no output, or two have one name."""
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"the {kind}s of a schema are {names}; it must be one or more, each with its own name")

    @cached_property
    def input_named(self) -> dict[str, Tensor]:
        """The inputs by name."""
        return {tensor.name: tensor for tensor in self.inputs}

    @cached_property
    def output_named(self) -> dict[str, Tensor]:
        """The outputs by name."""
        return {tensor.name: tensor for tensor in self.outputs}

    def to_json(self) -> str:
        """Writes the schema down; what is as usual is left out."""
        sides = {"inputs": self.inputs, "outputs": self.outputs}
        told = {side: [_told(tensor) for tensor in tensors] for side, tensors in sides.items()}
        return json.dumps(told, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Schema":
        """Reads what `to_json` wrote; raises ValueError for anything else."""
        try:
            told = json.loads(text)
            return cls(*(tuple(_tensor(one) for one in told[side]) for side in ("inputs", "outputs")))
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"schema.json is no schema: {problem!r}") from problem


def _told(tensor: Tensor) -> dict[str, Any]:
    usual = {field.name: field.default for field in fields(Tensor)}
    return {name: value for name, value in asdict(tensor).items() if value != usual[name]}


def _tensor(told: dict[str, Any]) -> Tensor:
    lists = {name: tuple(told[name]) for name in ("shape", "labels") if name in told}
    return Tensor(**{**told, **lists})
