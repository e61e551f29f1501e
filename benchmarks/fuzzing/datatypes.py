"""A task of a user's own that the fuzzer calls: one input of each datatype, any of which may be left out.

Its answer is a checksum of what it was given, so that an element that is read wrong is seen. Shapes: B items.
"""

import zlib
from typing import Any

import numpy as np

from pipelines.schema import BYTES, DATATYPES, FLOATS, Array, Arrays, Schema, Tensor

NAME = "datatypes"
UNLUCKY = 13
"""An item with this for its INT16 is refused by the model itself."""
MOST_BYTES = 20
SHAPES = {"BOOL": (-1, -1), "UINT8": (-1, 2, -1), "FP16": (-1, 2), "FP32": (-1, 3), BYTES: (-1, -1)}
"""Of those whose items hold more than one element."""
RANGES = {
    **dict.fromkeys(FLOATS, (-0.1, 1000.0)),
    "INT16": (0.0, 20.0),
    "INT32": (-5.0, 1000.0),
    "INT64": (-1e18, 1e18),
    "UINT64": (0.0, 1e18),
}
"""The least and the most allowed; the others take what their datatype holds."""


class Model:
    """Computes checksums."""

    def schema(self) -> Schema:
        """Says which tensors it takes and gives; each input has its datatype's name in small letters."""
        given = tuple(_tensor(datatype) for datatype in DATATYPES)
        return Schema(given, (Tensor("checksum", "INT64", (-1,)), Tensor("scores", "FP16", (-1, 2))))

    def examples(self) -> list[dict[str, Any]]:
        """Gives two valid inputs."""
        return [{"fp64": np.float64(0.5)}, {"bool": np.array([True, False]), "int8": np.int8(-3)}]

    def predict(self, inputs: list[dict[str, Any]]) -> list[int | ValueError]:
        """Gives a checksum for each item; a ValueError for one that it does not like."""
        return [
            ValueError(f"int16 is {UNLUCKY}, which brings bad luck") if one.get("int16") == UNLUCKY else _checksum(one)
            for one in inputs
        ]

    def from_tensors(self, arrays: Arrays) -> list[dict[str, Any]]:
        """Takes the tensors apart into items."""
        count = len(next(iter(arrays.values())))
        return [{name: array[at] for name, array in arrays.items()} for at in range(count)]

    def to_tensors(self, predictions: list[int]) -> Arrays:
        """Gives checksums [B] and, in scores [B, 2], how even each is."""
        even_B = np.array([checksum % 2 == 0 for checksum in predictions], np.float16)
        return {"checksum": np.array(predictions, np.int64), "scores": np.stack([even_B, 1 - even_B], axis=1)}


def _tensor(datatype: str) -> Tensor:
    lowest, highest = RANGES.get(datatype, (None, None))
    longest = MOST_BYTES if datatype == BYTES else None
    shape = SHAPES.get(datatype, (-1,))
    return Tensor(datatype.lower(), datatype, shape, "", lowest, highest, longest, optional=True)


def _checksum(one: dict[str, Any]) -> int:
    return zlib.crc32(b"".join(name.encode() + _written(one[name]) for name in sorted(one)))


def _written(elements: Array) -> bytes:
    if elements.dtype != np.object_:
        return elements.tobytes()
    return b"".join(len(one).to_bytes(4, "little") + one for one in elements.ravel().tolist())
