"""Makes Open Inference calls, good and bad: datatype x shape x encoding."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

from benchmarks.fuzzing.oracle import MOST_ITEMS
from benchmarks.fuzzing.typed import LENGTHS, TEXTS
from benchmarks.target import SIDE, Target
from services.oip import open_inference_pb2 as pb

DATATYPES = ("BOOL", "UINT8", "INT8", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64", "BYTES", "", "uint8", "FLOAT")
FIELDS = {"UINT8": "uint_contents", "BYTES": "bytes_contents", "INT64": "int64_contents"}
HOLDERS = ("bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents", "fp32_contents")


def infer(draw: random.Random, target: Target) -> bytes:
    """Makes a ModelInferRequest: a good one, then, more often than not, one to three changes."""
    request = _good(draw, target)
    for _ in range(draw.choice((0, 0, 1, 1, 1, 2, 3))):
        draw.choice(_CHANGES)(request, draw)
    return request.SerializeToString()


def _good(draw: random.Random, target: Target) -> pb.ModelInferRequest:
    model = draw.choice(sorted(target.schemas))
    request = pb.ModelInferRequest(model_name=model, model_version=draw.choice(("", "1")), id=draw.choice(("", "me")))
    count, raw = draw.choice((1, 1, 2, 3, MOST_ITEMS)), draw.random() < 0.5
    if model == "classifier":
        pixels = draw.randbytes(count * SIDE * SIDE)
        _add(request, "image", "UINT8", [count, SIDE, SIDE], list(pixels), raw)
    elif model == "sentiment":
        texts = [text for text in TEXTS if text.strip() and len(text) < 1000]
        _add(request, "text", "BYTES", [count], [draw.choice(texts).encode() for _ in range(count)], raw)
    else:
        users = [draw.choice(target.user_ids).encode() for _ in range(count)]
        lists = [json.dumps(draw.sample(target.item_ids, draw.randint(1, 3))).encode() for _ in range(count)]
        chosen = draw.choice((("user_id",), ("item_ids",), ("user_id", "item_ids", "k"), ("k", "user_id")))
        numbers = [draw.randint(1, 20) for _ in range(count)]
        for name in chosen:
            values: list[Any] = {"user_id": users, "item_ids": lists, "k": numbers}[name]
            _add(request, name, "INT64" if name == "k" else "BYTES", [count], values, raw)
    return request


def _add(
    request: pb.ModelInferRequest, name: str, datatype: str, shape: list[int], values: list[Any], raw: bool
) -> None:
    given = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if not raw:
        getattr(given.contents, FIELDS[datatype]).extend(values)
    elif datatype == "BYTES":
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(value)) + value for value in values))
    else:
        code = "q" if datatype == "INT64" else "B"
        request.raw_input_contents.append(struct.pack(f"<{len(values)}{code}", *values))


def _name(request: pb.ModelInferRequest, draw: random.Random) -> None:
    if request.inputs and draw.random() < 0.7:
        draw.choice(request.inputs).name = draw.choice(
            ("", "image", "text", "user_id", "item_ids", "k", "Image", "x" * 5000)
        )
    else:
        request.model_name = draw.choice(("", "classifier", "sentiment", "recommender", "Sentiment", "x" * 5000))


def _version(request: pb.ModelInferRequest, draw: random.Random) -> None:
    request.model_version = draw.choice(("0", "2", "01", " 1", "one", "-1"))


def _datatype(request: pb.ModelInferRequest, draw: random.Random) -> None:
    if request.inputs:
        draw.choice(request.inputs).datatype = draw.choice(DATATYPES)


def _shape(request: pb.ModelInferRequest, draw: random.Random) -> None:
    if not request.inputs:
        return
    shape = draw.choice(request.inputs).shape
    if not shape or draw.random() < 0.2:
        shape.append(draw.choice(LENGTHS))
    elif draw.random() < 0.2:
        shape.pop()
    else:
        shape[draw.randrange(len(shape))] = draw.choice((*LENGTHS, MOST_ITEMS, MOST_ITEMS + 1))


def _twice(request: pb.ModelInferRequest, draw: random.Random) -> None:
    if request.inputs:
        request.inputs.append(draw.choice(request.inputs))
        if request.raw_input_contents and draw.random() < 0.7:
            request.raw_input_contents.append(draw.choice(request.raw_input_contents))


def _drop(request: pb.ModelInferRequest, draw: random.Random) -> None:
    request.ClearField(draw.choice(("inputs", "raw_input_contents", "outputs")))


def _raw(request: pb.ModelInferRequest, draw: random.Random) -> None:
    raw = request.raw_input_contents
    if not raw or draw.random() < 0.3:
        raw.append(draw.choice((b"", b"\x00" * 784, struct.pack("<I", 2**32 - 1), b"\x01\x00\x00\x00a")))
        return
    at = draw.randrange(len(raw))
    cut = draw.randint(0, len(raw[at]))
    raw[at] = draw.choice((raw[at][:cut], raw[at] + b"\x00", raw[at] + raw[at], draw.randbytes(len(raw[at]) % 2000)))


def _contents(request: pb.ModelInferRequest, draw: random.Random) -> None:
    if not request.inputs:
        return
    contents = draw.choice(request.inputs).contents
    holder = draw.choice(HOLDERS)
    getattr(contents, holder).append(1)
    if draw.random() < 0.5:
        contents.ClearField(holder)


def _element(request: pb.ModelInferRequest, draw: random.Random) -> None:
    """Changes one typed element."""
    for given in request.inputs:
        numbers, texts = given.contents.uint_contents or given.contents.int64_contents, given.contents.bytes_contents
        if numbers:
            numbers[draw.randrange(len(numbers))] = draw.choice((0, 1, 255, 256, 2**31))
        if texts:
            lists = (b"[]", b"[1]", b"{}", b"[" * 5000, b'["no such item"]', b'"4"', b"null", b"[NaN]", b'["4"')
            odd = (b"", b" ", b"\xff", b"\xc3(", b"a" * 20_001, "\U0001f600".encode() * 20_000, b"nobody", *lists)
            texts[draw.randrange(len(texts))] = draw.choice(odd)


def _output(request: pb.ModelInferRequest, draw: random.Random) -> None:
    asked = request.outputs.add(name=draw.choice(("label", "scores", "scores", "item_ids", "", "boxes")))
    if draw.random() < 0.4:
        asked.parameters["classification"].int64_param = draw.choice((-(2**63), -1, 0, 1, 3, 2**63 - 1))
    if draw.random() < 0.1:
        asked.parameters["classification"].string_param = "3"
    if draw.random() < 0.1:
        asked.parameters["shared_memory_region"].string_param = "region"


def _parameter(request: pb.ModelInferRequest, draw: random.Random) -> None:
    request.parameters["priority"].uint64_param = 1
    if request.inputs:
        name = draw.choice(("shared_memory_region", "shared_memory_offset", "binary_data_size"))
        draw.choice(request.inputs).parameters[name].int64_param = 1


_CHANGES: tuple[Callable[[pb.ModelInferRequest, random.Random], None], ...] = (
    _name,
    _version,
    _datatype,
    _shape,
    _shape,
    _twice,
    _drop,
    _raw,
    _raw,
    _contents,
    _element,
    _element,
    _output,
    _parameter,
)
