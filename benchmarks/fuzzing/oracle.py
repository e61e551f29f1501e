"""An independent judge of typed calls, written from docs/errors.md and the .proto files and not from the services."""

import io
import math
import re
import struct
import warnings
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError

from benchmarks.fuzzing.verdicts import Expected, Refusal, invalid
from benchmarks.target import SIDE, Target
from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2

MOST_ITEMS = 16
"""--max-items of the server that is fuzzed."""
MOST_BYTES = 200_000
"""--max-message-bytes of the server that is fuzzed."""
TOO_LARGE = Refusal("RESOURCE_EXHAUSTED")
PIXELS, PIXELS_TOGETHER = 16_000_000, 64_000_000
MOST_ANSWERS = 100_000
JPEG_SIZE = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]...(....)", re.DOTALL)
JPEG_SEGMENT = re.compile(rb"\xff[^\xff](..)", re.DOTALL)


def parsed(kind: Any, body: bytes) -> Any:
    """Reads a message; None when the bytes are none."""
    try:
        return kind.FromString(body)
    except (DecodeError, UnicodeDecodeError):
        return None


class Oracle:
    """Judges the calls of the three typed services."""

    def __init__(self, target: Target) -> None:
        """Takes the facts about the models."""
        self._users, self._items = set(target.user_ids), set(target.item_ids)
        self._label_counts = target.label_counts

    def classify(self, body: bytes) -> Expected:
        """Judges Classify."""
        request = parsed(classifier_pb2.ClassifyRequest, body)
        whole = whole_call(request, body, "images")
        if whole or request is None:
            return Expected(whole)
        if request.top_k < 0:
            whole.add(invalid("top_k", "OUT_OF_RANGE"))
        whole |= confidence(request)
        claims = [pixels for image in request.images if (pixels := claimed(image.encoded)) <= PIXELS]
        if len(request.images) > 1 and sum(claims) > PIXELS_TOGETHER:
            whole.add(invalid("images", "TOO_LARGE"))
        labels = min(request.top_k or 3, self._label_counts["classifier"])
        return Expected(whole, [set(self._image(image, at)) for at, image in enumerate(request.images)], labels)

    def analyze(self, body: bytes) -> Expected:
        """Judges Analyze."""
        request = parsed(sentiment_pb2.AnalyzeRequest, body)
        whole = whole_call(request, body, "texts")
        if whole or request is None:
            return Expected(whole)
        items: list[set[Refusal]] = []
        for at, text in enumerate(request.texts):
            reason = "EMPTY" if not text.strip() else "TOO_LONG" if len(text) > 10_000 else ""
            items.append({invalid(f"texts[{at}]", reason)} if reason else set())
        return Expected(confidence(request), items, self._label_counts["sentiment"])

    def recommend(self, body: bytes) -> Expected:
        """Judges Recommend."""
        request = parsed(recommender_pb2.RecommendRequest, body)
        whole = whole_call(request, body, "queries")
        if whole or request is None:
            return Expected(whole)
        if sum(query.k for query in request.queries if 1 <= query.k <= MOST_ANSWERS) > MOST_ANSWERS:
            whole.add(invalid("queries", "TOO_MANY_ITEMS"))
        return Expected(whole, [set(self._query(query, at)) for at, query in enumerate(request.queries)])

    def _image(self, image: Any, at: int) -> Iterable[Refusal]:
        place = f"images[{at}]"
        if image.HasField("raw"):
            return self._raw(tuple(image.raw.shape), len(image.raw.data), f"{place}.raw")
        if not image.HasField("encoded"):
            return [invalid(place, "EMPTY")]
        if not image.encoded:
            return [invalid(f"{place}.encoded", "EMPTY")]
        reasons = []
        if claimed(image.encoded) > PIXELS:
            reasons.append("TOO_LARGE")
        elif not readable(image.encoded):
            reasons.append("NOT_AN_IMAGE")
        return [invalid(f"{place}.encoded", reason) for reason in reasons]

    def _raw(self, shape: tuple[int, ...], size: int, place: str) -> Iterable[Refusal]:
        if len(shape) not in (2, 3):
            return [invalid(f"{place}.shape", "WRONG_SHAPE")]
        for axis, length in enumerate(shape):
            if length < 1 or length > 65_535:
                return [invalid(f"{place}.shape[{axis}]", "OUT_OF_RANGE")]
        if len(shape) == 3 and shape[2] not in (1, 3):
            return [invalid(f"{place}.shape[2]", "WRONG_SHAPE")]
        if math.prod(shape) != size:
            return [invalid(f"{place}.data", "WRONG_SHAPE")]
        return [] if shape in ((SIDE, SIDE), (SIDE, SIDE, 1)) else [invalid(f"{place}.shape", "WRONG_SHAPE")]

    def _query(self, query: Any, at: int) -> Iterable[Refusal]:
        place = f"queries[{at}]"
        if query.k < 1 or query.k > MOST_ANSWERS:
            return [invalid(f"{place}.k", "OUT_OF_RANGE")]
        if not query.user_id and not query.item_ids:
            return [invalid(f"{place}.user_id", "EMPTY")]
        if len(query.item_ids) > 1000:
            return [invalid(f"{place}.item_ids", "TOO_MANY_ITEMS")]
        if query.k > len(self._items):
            return [invalid(f"{place}.k", "OUT_OF_RANGE")]
        for index, item in enumerate(query.item_ids):
            if item not in self._items:
                return [Refusal("NOT_FOUND", f"{place}.item_ids[{index}]", "UNKNOWN_ITEM")]
        if not query.item_ids and query.user_id not in self._users:
            return [Refusal("NOT_FOUND", f"{place}.user_id", "UNKNOWN_USER")]
        return []


def whole_call(request: Any, body: bytes, items: str) -> set[Refusal]:
    """Judges what every typed call has in common."""
    if len(body) > MOST_BYTES:
        return {TOO_LARGE}
    if request is None:
        return {invalid("", "MALFORMED_REQUEST")}
    count = len(getattr(request, items))
    if count == 0:
        return {invalid(items, "EMPTY")}
    return {invalid(items, "TOO_MANY_ITEMS")} if count > MOST_ITEMS else set()


def confidence(request: Any) -> set[Refusal]:
    """Judges min_confidence: 0 to 1."""
    allowed = request.min_confidence >= 0 and request.min_confidence <= 1
    return set() if allowed else {invalid("min_confidence", "OUT_OF_RANGE")}


def claimed(content: bytes) -> int:
    """Says how many pixels the first bytes of a file claim."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR" and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        return width * height
    at = 2 if content[:2] == b"\xff\xd8" else len(content)
    while segment := JPEG_SEGMENT.match(content, at):  # one by one: EXIF may hold what looks like a size
        if found := JPEG_SIZE.match(content, at):
            height, width = struct.unpack(">HH", found.group(1))
            return width * height
        at += 2 + int.from_bytes(segment.group(1), "big")
    return 0


def readable(content: bytes) -> bool:
    """Says whether Pillow reads the file as PNG or JPEG."""
    from PIL import Image

    if not content.startswith((b"\x89PNG", b"\xff\xd8")):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, without which a picture is still whole
            Image.open(io.BytesIO(content), formats=("PNG", "JPEG")).load()
    except Exception:  # whatever Pillow finds wrong
        return False
    return True
