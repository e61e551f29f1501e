"""The classifier as a service: images in, labels with scores out."""

from math import prod

import numpy as np

from eagerly.v1 import classifier_pb2 as pb
from pipelines.classifier.model import Prediction
from services.errors import BadInput
from services.service import Service

DEFAULT_TOP_K = 3
LONGEST_SIDE = 65_535


def check(request: pb.ClassifyRequest) -> None:
    """Raises BadInput when top_k is negative."""
    if request.top_k < 0:
        raise BadInput("top_k", f"is {request.top_k}; it must be 0 (for {DEFAULT_TOP_K}) or more")


def decode(image: pb.Image) -> bytes | np.ndarray:
    """Takes a file's bytes as they are, and pixels as a uint8 array [height, width] or [height, width, channels]."""
    form = image.WhichOneof("form")
    if form is None:
        raise BadInput("", "holds no image; set encoded or raw")
    if form == "encoded":
        if not image.encoded:
            raise BadInput("encoded", "is empty; send the bytes of a PNG or JPEG file")
        return image.encoded
    raw = image.raw
    data, shape = raw.data, tuple(raw.shape)
    _check_shape(shape, len(data))
    return np.frombuffer(data, np.uint8).reshape(shape)


def encode(request: pb.ClassifyRequest, prediction: Prediction, result: pb.ClassifyResult) -> None:
    """Writes the best labels, as many as top_k asks for."""
    for label, score in prediction.labels[: request.top_k or DEFAULT_TOP_K]:
        result.labels.add(label=label, score=score)


def blame(image: pb.Image, error: Exception) -> str:
    """Points at the file, or at the shape of pixels: the model takes any values but one size only."""
    return "raw.shape" if image.HasField("raw") else "encoded"


def _check_shape(shape: tuple[int, ...], size_bytes: int) -> None:
    """Raises BadInput for a shape that is no image's, or not that of so many bytes."""
    if len(shape) not in (2, 3):
        raise BadInput("raw.shape", f"has {len(shape)} numbers; it must be height, width and, unless grey, channels")
    if min(shape) < 1 or max(shape) > LONGEST_SIDE:
        axis, length = next((at, side) for at, side in enumerate(shape) if not 1 <= side <= LONGEST_SIDE)
        raise BadInput(f"raw.shape[{axis}]", f"is {length}; it must be 1 to {LONGEST_SIDE}")
    if len(shape) == 3 and shape[2] not in (1, 3):
        raise BadInput("raw.shape[2]", f"is {shape[2]}; an image has 1 or 3 channels")
    if prod(shape) != size_bytes:
        raise BadInput("raw.data", f"is {size_bytes} bytes long; the shape {list(shape)} needs {prod(shape)}")


SERVICE = Service(
    name="classifier",
    descriptor=pb.DESCRIPTOR.services_by_name["Classifier"],
    request=pb.ClassifyRequest,
    response=pb.ClassifyResponse,
    items="images",
    check=check,
    decode=decode,
    encode=encode,
    blame=blame,
)
