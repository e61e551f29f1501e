"""The classifier as a service: images in, labels with scores out."""

import functools
from math import prod

import numpy as np

from eagerly.v1 import classifier_pb2 as pb
from pipelines.classifier.images import MAX_PIXELS, TooManyPixelsError, pixel_count
from pipelines.classifier.model import Prediction
from services.errors import BadInput
from services.reasons import Reason
from services.service import MOST_ANSWERS, Service

DEFAULT_TOP_K = 3
LONGEST_SIDE = 65_535
MOST_PIXELS = 64_000_000
"""Pixels of all files of a call together: few bytes can hold many pixels, and decoding them keeps others waiting."""


def check(request: pb.ClassifyRequest) -> None:
    """Raises BadInput for top_k or min_confidence out of range, or when the files hold too many pixels together."""
    if request.top_k < 0:
        problem = f"is {request.top_k}; it must be 0 (for {DEFAULT_TOP_K}) or more"
        raise BadInput("top_k", problem, Reason.OUT_OF_RANGE)
    if not 0 <= request.min_confidence <= 1:
        problem = f"is {request.min_confidence:g}; it must be 0 to 1"
        raise BadInput("min_confidence", problem, Reason.OUT_OF_RANGE)
    if len(request.images) > 1:
        counts = [pixel_count(image.encoded) for image in request.images if image.encoded]
        pixels = sum(count for count in counts if count <= MAX_PIXELS)  # the others are refused one by one
        if pixels > MOST_PIXELS:
            problem = f"hold {pixels:,} pixels together; the most in a call is {MOST_PIXELS:,}"
            raise BadInput("images", problem, Reason.TOO_LARGE, limit=MOST_PIXELS)


def decode(image: pb.Image) -> bytes | np.ndarray:
    """Takes a file's bytes as they are, and pixels as a uint8 array [height, width] or [height, width, channels]."""
    form = image.WhichOneof("form")
    if form is None:
        raise BadInput("", "holds no image; set encoded or raw", Reason.EMPTY)
    if form == "encoded":
        if not image.encoded:
            raise BadInput("encoded", "is empty; send the bytes of a PNG or JPEG file", Reason.EMPTY)
        return image.encoded
    raw = image.raw
    data, shape = raw.data, tuple(raw.shape)
    _check_shape(shape, len(data))
    return np.frombuffer(data, np.uint8).reshape(shape)


def encode(request: pb.ClassifyRequest, prediction: Prediction, result: pb.ClassifyResult) -> None:
    """Writes the best labels, as many as top_k asks for, and whether the best of them is too unsure.

    Raises BadInput when the images have too many labels together: how many there are only the model knows.
    """
    if request.min_confidence > 0 and not prediction.labels[0][1] >= request.min_confidence:  # NaN is no confidence
        result.abstained = True
    labels = prediction.labels[: request.top_k or DEFAULT_TOP_K]
    if request.top_k > DEFAULT_TOP_K and len(labels) * len(request.images) > MOST_ANSWERS:
        count = len(labels) * len(request.images)
        problem = f"ask for {count:,} labels together; the most in a call is {MOST_ANSWERS:,}; lower top_k"
        raise BadInput("images", problem, Reason.TOO_MANY_ITEMS, limit=MOST_ANSWERS)
    add = result.labels.add
    for label, score in labels:
        one = add()  # setting fields takes half the time of naming them here
        one.label, one.score = label, score


def blame(image: pb.Image | np.ndarray, error: Exception) -> tuple[str, Reason]:
    """Points at the file, or at the shape of pixels: the model takes any values but one size only."""
    if isinstance(image, np.ndarray) or image.HasField("raw"):
        return "raw.shape", Reason.WRONG_SHAPE
    return "encoded", Reason.TOO_LARGE if isinstance(error, TooManyPixelsError) else Reason.NOT_AN_IMAGE


def weigh(image: bytes | np.ndarray) -> int:
    """Weighs all pixels alike, which the model takes in one size only; a file of a few bytes may hold millions."""
    return int(isinstance(image, np.ndarray))


@functools.lru_cache(maxsize=256)
def _check_shape(shape: tuple[int, ...], size_bytes: int) -> None:
    """Raises BadInput for a shape that is no image's, or not that of so many bytes; most calls bring the same."""
    if len(shape) not in (2, 3):
        problem = f"has {len(shape)} numbers; it must be height, width and, unless grey, channels"
        raise BadInput("raw.shape", problem, Reason.WRONG_SHAPE)
    if min(shape) < 1 or max(shape) > LONGEST_SIDE:
        axis, length = next((at, side) for at, side in enumerate(shape) if not 1 <= side <= LONGEST_SIDE)
        raise BadInput(f"raw.shape[{axis}]", f"is {length}; it must be 1 to {LONGEST_SIDE}", Reason.OUT_OF_RANGE)
    if len(shape) == 3 and shape[2] not in (1, 3):
        raise BadInput("raw.shape[2]", f"is {shape[2]}; an image has 1 or 3 channels", Reason.WRONG_SHAPE)
    if prod(shape) != size_bytes:
        problem = f"is {size_bytes} bytes long; the shape {list(shape)} needs {prod(shape)}"
        raise BadInput("raw.data", problem, Reason.WRONG_SHAPE)


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
    weigh=weigh,
)
