"""Reads a ModelInferRequest into arrays, and refuses, naming the field, what its model's schema does not allow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from pipelines.schema import BYTES, DATATYPES, FLOATS, Array, Arrays, Schema, Tensor
from services.errors import BadInput
from services.oip import open_inference_pb2 as pb
from services.reasons import Reason

FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Where typed contents hold the elements of each datatype; FP16 has no such place."""
GREATEST_COUNT = 2**63 - 1
SHARED_MEMORY = "shared_memory_region"
LONGEST_NAME = 64


def arrays(request: pb.ModelInferRequest, schema: Schema, most_items: int) -> Arrays:
    """Reads the inputs of a request by name, each checked against the schema.

    Raises BadInput with the path of the first field that is wrong.
    """
    tensors = [_known(given, at, schema) for at, given in enumerate(request.inputs)]
    _check_names(tensors, schema)
    for at, (given, tensor) in enumerate(zip(request.inputs, tensors, strict=True)):
        _check_shape(given.shape, tensor, f"inputs[{at}]", most_items)
        if given.shape[0] != request.inputs[0].shape[0]:
            problem = f"is {given.shape[0]}, but inputs[0] holds {request.inputs[0].shape[0]} items"
            raise BadInput(f"inputs[{at}].shape[0]", problem, Reason.WRONG_SHAPE)
    raw = request.raw_input_contents
    if raw and len(raw) != len(tensors):
        problem = f"holds {len(raw)}; there are {len(tensors)} inputs"
        raise BadInput("raw_input_contents", problem, Reason.WRONG_SHAPE)
    found: Arrays = {}
    for at, (given, tensor) in enumerate(zip(request.inputs, tensors, strict=True)):
        elements = _raw(given, raw[at], tensor, at) if raw else _typed(given, tensor, at)
        _check_values(elements, tensor)
        found[tensor.name] = elements.array.reshape(tuple(given.shape))
    return found


def place(request: pb.ModelInferRequest, name: str, item: int) -> tuple[str, str]:
    """Gives the path of an item within an input, and the words that lead to it where the path cannot.

    An input that the request does not have, or no name, stands for all inputs.
    """
    at = next((at for at, given in enumerate(request.inputs) if given.name == name), None)
    if at is None:
        return "inputs", f"item {item}: "
    is_single = len(request.inputs[at].shape) == 1
    if request.raw_input_contents:
        return f"raw_input_contents[{at}]", f"element {item} " if is_single else f"item {item}: "
    field = f"inputs[{at}].contents.{FIELDS[request.inputs[at].datatype]}"
    return (f"{field}[{item}]", "") if is_single else (field, f"item {item}: ")


def shortened(name: str) -> str:
    """Quotes a name that a caller sent, cut where it would fill the reply."""
    return repr(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "...")


@dataclass
class _Elements:
    """One input's elements in a row."""

    array: Array
    path: Callable[[int], tuple[str, str]]
    """For an element's position, the field's path, and the words that lead to the element within the field."""

    def refuse(self, at: int, problem: str, reason: Reason) -> BadInput:
        """Says what is wrong with one element."""
        field, lead = self.path(at)
        return BadInput(field, lead + problem, reason)


def _known(given: Any, at: int, schema: Schema) -> Tensor:
    """Finds the tensor that an input is; raises BadInput for an unknown name or another datatype."""
    tensor = schema.input_named.get(given.name)
    if tensor is None:
        names = ", ".join(schema.input_named)
        problem = f"is {shortened(given.name)}; this model takes {names}"
        raise BadInput(f"inputs[{at}].name", problem, Reason.UNKNOWN_NAME)
    if given.datatype != tensor.datatype:
        problem = f"is {shortened(given.datatype)}; {tensor.name} is of {tensor.datatype}"
        raise BadInput(f"inputs[{at}].datatype", problem, Reason.WRONG_TYPE)
    check_place(given, f"inputs[{at}]")
    return tensor


def check_place(tensor: Any, path: str) -> None:
    """Raises BadInput for an input or output that lies, by its parameters, in shared memory."""
    if tensor.parameters and any(name.startswith("shared_memory_") for name in tensor.parameters):
        problem = "names shared memory, which this server has not"
        raise BadInput(f"{path}.parameters[{SHARED_MEMORY}]", problem, Reason.INVALID_VALUE)


def _check_names(tensors: list[Tensor], schema: Schema) -> None:
    """Raises BadInput for an input that is given twice, or not at all."""
    seen = set[str]()
    for at, tensor in enumerate(tensors):
        if tensor.name in seen:
            raise BadInput(f"inputs[{at}].name", f"is {tensor.name!r} for the second time", Reason.DUPLICATE_NAME)
        seen.add(tensor.name)
    for tensor in schema.inputs:
        if tensor.name not in seen and not tensor.optional:
            raise BadInput("inputs", f"lacks {tensor.name!r} of {tensor.datatype} {list(tensor.shape)}", Reason.EMPTY)
    if not tensors:
        raise BadInput("inputs", f"is empty; this model takes {', '.join(schema.input_named)}", Reason.EMPTY)


def _check_shape(shape: Sequence[int], tensor: Tensor, place: str, most_items: int) -> None:
    """Raises BadInput for a shape that is not the tensor's, or holds no items, or too many."""
    if len(shape) != len(tensor.shape):
        problem = f"has {len(shape)} dimensions; {tensor.name} has {len(tensor.shape)}: {list(tensor.shape)}"
        raise BadInput(f"{place}.shape", problem, Reason.WRONG_SHAPE)
    if not 1 <= shape[0] <= most_items:
        reason = Reason.TOO_MANY_ITEMS if shape[0] > 0 else Reason.EMPTY if shape[0] == 0 else Reason.WRONG_SHAPE
        problem = f"is {shape[0]}; send 1 to {most_items} items in a call"
        raise BadInput(f"{place}.shape[0]", problem, reason, limit=most_items)
    for axis, (length, allowed) in enumerate(zip(shape, tensor.shape, strict=True)):
        if length != allowed if allowed != -1 else length < 1:
            wanted = "1 or more" if allowed == -1 else allowed
            raise BadInput(f"{place}.shape[{axis}]", f"is {length}; it must be {wanted}", Reason.WRONG_SHAPE)
    if prod(shape) > GREATEST_COUNT:
        problem = f"{list(shape)} has more than {GREATEST_COUNT} elements"
        raise BadInput(f"{place}.shape", problem, Reason.WRONG_SHAPE)


def _raw(given: Any, raw: bytes, tensor: Tensor, at: int) -> _Elements:
    """Reads an input's elements from raw contents."""
    field = f"raw_input_contents[{at}]"
    if given.HasField("contents"):
        problem = "is set beside raw_input_contents; send one of them"
        raise BadInput(f"inputs[{at}].contents", problem, Reason.CONFLICT)
    count = prod(given.shape)
    if tensor.datatype == BYTES:
        array = _texts(_unpacked(raw, count, field), tensor, lambda at: (field, f"element {at} "))
    else:
        dtype = np.dtype(DATATYPES[tensor.datatype])
        if len(raw) != count * dtype.itemsize:
            needed = f"{list(given.shape)} of {tensor.datatype} needs {count * dtype.itemsize}"
            raise BadInput(field, f"is {len(raw)} bytes long; {needed}", Reason.WRONG_SHAPE)
        array = np.frombuffer(raw, dtype)
        if tensor.datatype == "BOOL" and np.frombuffer(raw, np.uint8).max() > 1:
            raise BadInput(field, "holds a byte that is neither 0 nor 1", Reason.OUT_OF_RANGE)
    return _Elements(array, lambda at: (field, f"element {at} "))


def _typed(given: Any, tensor: Tensor, at: int) -> _Elements:
    """Reads an input's elements from the contents of its datatype."""
    name = FIELDS.get(tensor.datatype)
    if name is None:
        problem = f"cannot hold {tensor.datatype}; send raw_input_contents"
        raise BadInput(f"inputs[{at}].contents", problem, Reason.WRONG_TYPE)
    field = f"inputs[{at}].contents.{name}"
    for other, _ in given.contents.ListFields():
        if other.name != name:
            problem = f"is set, but {tensor.name} is of {tensor.datatype}, which {name} holds"
            raise BadInput(f"inputs[{at}].contents.{other.name}", problem, Reason.WRONG_TYPE)
    values, count = getattr(given.contents, name), prod(given.shape)
    if len(values) != count:
        problem = f"holds {len(values)} elements; the shape {list(given.shape)} needs {count}"
        raise BadInput(field, problem, Reason.WRONG_SHAPE)

    def path(element: int) -> tuple[str, str]:
        return f"{field}[{element}]", ""

    if tensor.datatype == BYTES:
        return _Elements(_texts(list(values), tensor, path), path)
    return _Elements(_narrowed(values, np.dtype(DATATYPES[tensor.datatype]), path), path)


def _narrowed(values: Any, dtype: Any, path: Callable[[int], tuple[str, str]]) -> Array:
    """Gives typed contents, the narrowest of which have 32 bits, the width of their datatype.

    Raises BadInput for what does not fit.
    """
    is_narrow = dtype.kind in "iu" and dtype.itemsize < 4
    wide = np.fromiter(values, f"{dtype.kind}4" if is_narrow else dtype, len(values))
    if is_narrow:
        limits = np.iinfo(dtype)
        wrong = np.flatnonzero((wide < limits.min) | (wide > limits.max))
        if len(wrong):
            problem = f"is {wide[wrong[0]]}; it must be {limits.min} to {limits.max}"
            raise _Elements(wide, path).refuse(int(wrong[0]), problem, Reason.OUT_OF_RANGE)
    return wide.astype(dtype, copy=False)


def _unpacked(raw: bytes, count: int, field: str) -> list[bytes]:
    """Takes raw BYTES apart: of each element its length in four bytes, little-endian, then the bytes."""
    found: list[bytes] = []
    at = 0
    while at < len(raw) and len(found) < count:
        size = int.from_bytes(raw[at : at + 4], "little")
        if at + 4 + size > len(raw) or at + 4 > len(raw):
            raise BadInput(field, f"ends within element {len(found)}, at byte {len(raw)}", Reason.WRONG_SHAPE)
        found.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    if at < len(raw) or len(found) < count:
        more = "more than " if at < len(raw) else ""
        problem = f"holds {more}{len(found)} elements; the shape needs {count}"
        raise BadInput(field, problem, Reason.WRONG_SHAPE)
    return found


def _texts(elements: list[bytes], tensor: Tensor, path: Callable[[int], tuple[str, str]]) -> Array:
    """Puts BYTES into an array, as str where the tensor holds text; raises BadInput for what is too long or no text."""
    array = np.empty(len(elements), dtype=object)
    for at, element in enumerate(elements):
        if tensor.most_bytes is not None and len(element) > tensor.most_bytes:
            problem = f"is {len(element)} bytes long; the most is {tensor.most_bytes}"
            raise _Elements(array, path).refuse(at, problem, Reason.TOO_LONG)
        try:
            array[at] = element.decode() if tensor.is_text else element
        except UnicodeDecodeError:
            raise _Elements(array, path).refuse(at, "is not valid UTF-8", Reason.INVALID_VALUE) from None
        if tensor.most_characters is not None and len(array[at]) > tensor.most_characters:
            problem = f"is {len(array[at])} characters long; the most is {tensor.most_characters}"
            raise _Elements(array, path).refuse(at, problem, Reason.TOO_LONG)
    return array


def _check_values(elements: _Elements, tensor: Tensor) -> None:
    """Raises BadInput for a number that is not finite, or out of the tensor's range."""
    array = elements.array
    if tensor.datatype in FLOATS and not (finite := np.isfinite(array)).all():
        at = int(finite.argmin())
        raise elements.refuse(at, f"is {array[at]}; it must be finite", Reason.NOT_FINITE)
    if tensor.lowest is not None and (below := array < _exact(tensor.lowest, array)).any():
        at = int(below.argmax())
        raise elements.refuse(at, f"is {array[at]}; the least allowed is {tensor.lowest:g}", Reason.OUT_OF_RANGE)
    if tensor.highest is not None and (above := array > _exact(tensor.highest, array)).any():
        at = int(above.argmax())
        raise elements.refuse(at, f"is {array[at]}; the most allowed is {tensor.highest:g}", Reason.OUT_OF_RANGE)


def _exact(limit: float, array: Array) -> float:
    """Gives a limit as what numpy compares with whole numbers exactly: beyond 2**53 it rounds them for a float."""
    return int(limit) if array.dtype.kind in "iu" and float(limit).is_integer() else limit
