"""Makes typed calls, good and bad: sizes x shapes x forms."""

import functools
import random
from typing import Any

from benchmarks.fuzzing import pictures
from benchmarks.fuzzing.oracle import MOST_BYTES, MOST_ITEMS
from benchmarks.target import SIDE, Target
from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2

LENGTHS = (-(2**63), -SIDE, -1, 0, 1, 2, 3, 4, 27, 28, 29, 784, 65_535, 65_536, 2**31, 2**32 + 28, 2**62, 2**63 - 1)
NUMBERS = (-(2**31), -1, 0, 1, 2, 3, 9, 10, 11, 1000, 2**31 - 1)
CONFIDENCES = (0.0, 0.5, 1.0, -0.0, 1.0000001, -0.5, 2.0, float("nan"), float("inf"), float("-inf"), 1e-45)
TEXTS = (
    "fine",
    "",
    " ",
    "\u3000\n\t",
    "好看的电影",
    "\x00",
    "a" * 10_000,
    "b" * 10_001,
    "\U0001f600" * 30,
    "\u0301",
    "\u200b",
)


def classify(draw: random.Random, target: Target) -> bytes:
    """Makes a ClassifyRequest."""
    request = classifier_pb2.ClassifyRequest(images=[_image(draw) for _ in range(_count(draw))])
    if draw.random() < 0.3:
        request.top_k = draw.choice(NUMBERS)
    _doubt(request, draw)
    return request.SerializeToString()


def analyze(draw: random.Random, target: Target) -> bytes:
    """Makes an AnalyzeRequest."""
    request = sentiment_pb2.AnalyzeRequest(texts=[_text(draw) for _ in range(_count(draw))])
    _doubt(request, draw)
    return request.SerializeToString()


def recommend(draw: random.Random, target: Target) -> bytes:
    """Makes a RecommendRequest."""
    queries = [_query(draw, target) for _ in range(_count(draw))]
    return recommender_pb2.RecommendRequest(queries=queries).SerializeToString()


def _count(draw: random.Random) -> int:
    chance = draw.random()
    return draw.randint(1, 4) if chance < 0.93 else draw.choice((0, MOST_ITEMS, MOST_ITEMS + 1, 2 * MOST_ITEMS))


def _doubt(request: Any, draw: random.Random) -> None:
    if draw.random() < 0.1:
        request.min_confidence = draw.choice(CONFIDENCES)


def _text(draw: random.Random) -> str:
    if draw.random() < 0.002:
        return "x" * MOST_BYTES
    if draw.random() < 0.5:
        return draw.choice(TEXTS)
    return "".join(
        chr(draw.choice((draw.randint(1, 0xD7FF), draw.randint(32, 126)))) for _ in range(draw.randint(0, 60))
    )


def _query(draw: random.Random, target: Target) -> recommender_pb2.RecommendQuery:
    user = draw.choice((draw.choice(target.user_ids), draw.choice(target.user_ids), "", "nobody", "\U0001f600" * 500))
    known = draw.choices(
        target.item_ids, k=draw.choice((0, 0, 1, 3, 3, 1000, 1001) if draw.random() < 0.1 else (0, 1, 3))
    )
    unknown = draw.choice(([], [], [], ["no such item"], [""]))
    items = known + unknown
    draw.shuffle(items)
    beyond = (-(2**31), -1, 0, len(target.item_ids), len(target.item_ids) + 1, 2**31 - 1)
    k = draw.choice(beyond) if draw.random() < 0.2 else draw.randint(1, 20)
    return recommender_pb2.RecommendQuery(user_id=user, item_ids=items, k=k)


def _image(draw: random.Random) -> classifier_pb2.Image:
    chance = draw.random()
    if chance < 0.03:
        return classifier_pb2.Image()
    if chance < 0.4:
        return classifier_pb2.Image(encoded=pictures.file(draw))
    if chance < 0.6:
        shape = draw.choice(((SIDE, SIDE), (SIDE, SIDE, 1)))
    else:
        lengths = LENGTHS if draw.random() < 0.5 else (1, 2, 3, 4, 27, 28, 29)
        shape = tuple(draw.choice(lengths) for _ in range(draw.choice((0, 1, 2, 2, 3, 3, 3, 4))))
    size = functools.reduce(lambda product, length: product * length, shape, 1)
    fits = 0 <= size <= 30_000 and draw.random() < 0.8
    data = draw.randbytes(size if fits else draw.choice((0, 1, 783, 784, 785, 2352)))
    return classifier_pb2.Image(raw=classifier_pb2.RawImage(data=data, shape=shape))
