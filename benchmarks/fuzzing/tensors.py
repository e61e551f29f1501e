"""Makes Open Inference calls, good and bad: datatype x shape x encoding."""

import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

from benchmarks.fuzzing import datatypes
from benchmarks.fuzzing.elements import CODES, FLOATS, HOLDERS, limits, packed, width
from benchmarks.fuzzing.oracle import MOST_ITEMS
from benchmarks.fuzzing.typed import LENGTHS, TEXTS
from benchmarks.target import SIDE, Target
from services.oip import open_inference_pb2 as pb

DATATYPES = (*CODES, "BYTES", "", "uint8", "FLOAT")
NAMES = ("", "image", "text", "user_id", "item_ids", "k", "Image", "fp32", "bool", "int8", "bytes", "x" * 5000)
MODELS = ("", "classifier", "sentiment", "recommender", datatypes.NAME, "Sentiment", "x" * 5000)
OUTPUTS = ("label", "scores", "scores", "item_ids", "checksum", "checksum", "", "boxes")
ODD_NUMBERS = (
    *(-(2**63), -(10**18) - 1, -(10**18), -(2**31), -32_769, -129, -128, -6, -5, -1, 0, 1, 2, 20, 21, 127, 128),
    *(255, 256, 1000, 1001, 65_535, 65_536, 2**31 - 1, 2**31, 10**18, 10**18 + 1, 2**63 - 1, 2**64 - 1),
)
ODD_FLOATS = (math.nan, math.inf, -math.inf, -0.0, -0.1, -0.11, 1e-45, 1000.0, 1000.5, 6e4, 3e38)
LISTS = (b"[]", b"[1]", b"{}", b"[" * 5000, b'["no such item"]', b'"4"', b"null", b"[NaN]", b'["4"')
ODD_TEXTS = (b"", b" ", b"\xff", b"\xc3(", b"a" * 21, b"a" * 20_001, "\U0001f600".encode() * 20_000, b"nobody", *LISTS)


def _odd(datatype: str) -> tuple[Any, ...]:
    if datatype in FLOATS:
        return tuple(one for one in ODD_FLOATS if datatype != "FP16" or one != 3e38)
    least, most = limits(datatype)
    return tuple(one for one in ODD_NUMBERS if least <= one <= most)


ODD_RAW = {datatype: tuple(packed(datatype, [one]) for one in _odd(datatype)) for datatype in CODES} | {
    "BOOL": (b"\x00", b"\x01", b"\x02", b"\x80", b"\xff")
}
"""Elements of raw contents at the edges of what is allowed, and beyond."""
ODD_TYPED = {
    "bool_contents": (True, False),
    "int_contents": _odd("INT32"),
    "int64_contents": _odd("INT64"),
    "uint_contents": _odd("UINT32"),
    "uint64_contents": _odd("UINT64"),
    "fp32_contents": ODD_FLOATS,
    "fp64_contents": ODD_FLOATS,
    "bytes_contents": ODD_TEXTS,
}
"""The same for typed contents."""


def infer(draw: random.Random, target: Target) -> bytes:
    """Makes a ModelInferRequest: a good one, then, more often than not, one to three changes or an odd element."""
    request = _good(draw, target)
    if draw.random() < 0.5:
        change = _raw_element if request.raw_input_contents else _element
        change(request, draw)
    for _ in range(draw.choice((0, 0, 1, 1, 1, 2, 3))):
        draw.choice(_CHANGES)(request, draw)
    return request.SerializeToString()


def _good(draw: random.Random, target: Target) -> pb.ModelInferRequest:
    known = sorted(target.schemas)
    often = 2 if datatypes.NAME in known else 0  # it takes the most kinds of tensors
    model = draw.choice([*known, *[datatypes.NAME] * often])
    request = pb.ModelInferRequest(model_name=model, model_version=draw.choice(("", "1")), id=draw.choice(("", "me")))
    count, raw = draw.choice((1, 1, 2, 3, MOST_ITEMS)), draw.random() < 0.5
    if model == datatypes.NAME:
        for tensor in draw.sample(target.schemas[model]["inputs"], draw.randint(1, 4)):
            shape = [count, *(draw.randint(1, 3) if length == -1 else length for length in tensor["shape"][1:])]
            values: list[Any] = [_value(tensor, draw) for _ in range(math.prod(shape))]
            _add(request, tensor["name"], tensor["datatype"], shape, values, raw)
    elif model == "classifier":
        pixels = draw.randbytes(count * SIDE * SIDE)
        _add(request, "image", "UINT8", [count, SIDE, SIDE], list(pixels), raw)
    elif model == "sentiment":
        texts = [text for text in TEXTS if text.strip() and len(text) < 1000]
        _add(request, "text", "BYTES", [count], [draw.choice(texts).encode() for _ in range(count)], raw)
    else:
        _add_queries(request, draw, target, count, raw)
    return request


def _value(tensor: dict[str, Any], draw: random.Random) -> Any:
    """Draws an element that a tensor allows, often one at its limits."""
    datatype = tensor["datatype"]
    if datatype == "BYTES":
        return draw.randbytes(draw.randint(0, 8))
    if datatype in FLOATS:
        least, most = tensor["lowest"], tensor["highest"]
        return draw.choice((least, most, 0.0, draw.uniform(least, most)))
    least, most = limits(datatype)
    least, most = max(least, int(tensor.get("lowest", least))), min(most, int(tensor.get("highest", most)))
    return draw.choice((least, most, draw.randint(least, most)))


def _add_queries(request: pb.ModelInferRequest, draw: random.Random, target: Target, count: int, raw: bool) -> None:
    users = [draw.choice(target.user_ids).encode() for _ in range(count)]
    lists = [json.dumps(draw.sample(target.item_ids, draw.randint(1, 3))).encode() for _ in range(count)]
    chosen = draw.choice((("user_id",), ("item_ids",), ("user_id", "item_ids", "k"), ("k", "user_id")))
    numbers = [draw.randint(1, 20) for _ in range(count)]
    for name in chosen:
        values: list[Any] = {"user_id": users, "item_ids": lists, "k": numbers}[name]
        _add(request, name, "INT64" if name == "k" else "BYTES", [count], values, raw)


def _add(
    request: pb.ModelInferRequest, name: str, datatype: str, shape: list[int], values: list[Any], raw: bool
) -> None:
    given = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw:
        request.raw_input_contents.append(packed(datatype, values))
    else:
        getattr(given.contents, HOLDERS.get(datatype, "fp32_contents")).extend(values)


def _name(request: pb.ModelInferRequest, draw: random.Random) -> None:
    if request.inputs and draw.random() < 0.7:
        draw.choice(request.inputs).name = draw.choice(NAMES)
    else:
        request.model_name = draw.choice(MODELS)


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


def _raw_element(request: pb.ModelInferRequest, draw: random.Random) -> None:
    """Changes one element of an input that has raw contents of a fixed width."""
    fixed = [at for at, given in enumerate(request.inputs) if given.datatype in CODES]
    at = draw.choice(fixed) if fixed else 0
    if not fixed or at >= len(request.raw_input_contents):
        return
    datatype, raw = request.inputs[at].datatype, request.raw_input_contents[at]
    size = width(datatype)
    start = size * draw.randrange(max(1, len(raw) // size))
    request.raw_input_contents[at] = raw[:start] + draw.choice(ODD_RAW[datatype]) + raw[start + size :]


def _contents(request: pb.ModelInferRequest, draw: random.Random) -> None:
    """Sets typed contents that may be another datatype's."""
    if not request.inputs:
        return
    contents, holder = draw.choice(request.inputs).contents, draw.choice([*ODD_TYPED])
    getattr(contents, holder).append(ODD_TYPED[holder][0])
    if draw.random() < 0.5:
        contents.ClearField(holder)


def _element(request: pb.ModelInferRequest, draw: random.Random) -> None:
    """Changes one element of an input that has typed contents."""
    if not request.inputs:
        return
    for holder, elements in draw.choice(request.inputs).contents.ListFields():
        elements[draw.randrange(len(elements))] = draw.choice(ODD_TYPED[holder.name])


def _output(request: pb.ModelInferRequest, draw: random.Random) -> None:
    asked = request.outputs.add(name=draw.choice(OUTPUTS))
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
    _raw_element,
    _raw_element,
    _contents,
    _element,
    _element,
    _output,
    _parameter,
)
