"""An independent judge of Open Inference calls, written from the schema, the .proto file and the README.

A call may break several rules, and the contract does not say which is named first: any of those that it breaks may be.
"""

import json
import math
import struct
import zlib
from typing import Any

from benchmarks.fuzzing import datatypes
from benchmarks.fuzzing.elements import CODES, FLOATS, HOLDERS, limits, packed, width
from benchmarks.fuzzing.oracle import MOST_BYTES, MOST_ITEMS, TOO_LARGE, parsed
from benchmarks.fuzzing.verdicts import Expected, Refusal, invalid
from benchmarks.target import Target
from services.oip import open_inference_pb2 as pb

MOST_ELEMENTS = 2**63 - 1


class TensorOracle:
    """Judges ModelInfer."""

    def __init__(self, target: Target) -> None:
        """Takes the facts about the models."""
        self._target = target
        self._users, self._items = set(target.user_ids), set(target.item_ids)

    def infer(self, body: bytes) -> Expected:
        """Judges a call: the refusals of which one must come, or none."""
        if len(body) > MOST_BYTES:
            return Expected({TOO_LARGE})
        request = parsed(pb.ModelInferRequest, body)
        if request is None:
            return Expected({invalid("", "MALFORMED_REQUEST")})
        schema = self._target.schemas.get(request.model_name)
        if schema is None:
            return Expected({Refusal("NOT_FOUND", "model_name", "UNKNOWN_MODEL")})
        if request.model_version not in ("", "1"):
            return Expected({Refusal("NOT_FOUND", "model_version", "UNKNOWN_MODEL")})
        told = {tensor["name"]: tensor for tensor in schema["inputs"]}
        broken = _names(request, told) | _outputs(request, schema)
        elements: dict[str, list[Any]] = {}
        for at, given in enumerate(request.inputs):
            if given.name in told:
                broken |= _tensor(request, at, told[given.name], elements)
        broken = broken or self._items_broken(request, elements)
        own = request.model_name == datatypes.NAME and not broken
        return Expected(broken, checksums=_checksums(request, elements) if own else None)

    def _items_broken(self, request: Any, elements: dict[str, list[Any]]) -> set[Refusal]:
        """Judges what only the model can: blank texts, queries, and numbers that it does not like."""
        if request.model_name == datatypes.NAME:
            unlucky = datatypes.UNLUCKY in elements.get("int16", ())
            return {invalid("inputs", "INVALID_VALUE")} if unlucky else set()
        count = max((len(values) for values in elements.values()), default=0)
        items = [{name: values[item] for name, values in elements.items()} for item in range(count)]
        if request.model_name == "sentiment":
            blank = [item for item, one in enumerate(items) if not one["text"].strip()]
            return {invalid(_place(request, "text", item), "EMPTY") for item in blank[:1]}
        if request.model_name != "recommender":
            return set()
        unreadable = [(item, told) for item, one in enumerate(items) if (told := _unreadable(one))]
        if unreadable:  # they are found before the model is asked
            item, (name, reason) = unreadable[0]
            return {invalid(_place(request, name, item), reason)}
        unknown = [(item, told) for item, one in enumerate(items) if (told := self._unknown(one))]
        return {Refusal("NOT_FOUND", _place(request, name, item), reason) for item, (name, reason) in unknown[:1]}

    def _unknown(self, one: dict[str, Any]) -> tuple[str, str] | None:
        """Says which tensor of a query names something unknown, and the reason."""
        items = json.loads(one.get("item_ids") or "[]")
        if any(item not in self._items for item in items):
            return "item_ids", "UNKNOWN_ITEM"
        return None if items or one.get("user_id") in self._users else ("user_id", "UNKNOWN_USER")


def _unreadable(one: dict[str, Any]) -> tuple[str, str] | None:
    """Says which tensor of a query is no good whatever the model knows, and the reason."""
    try:
        items = json.loads(one.get("item_ids") or "[]")
    except (ValueError, RecursionError):
        return "item_ids", "INVALID_VALUE"
    if not isinstance(items, list) or any(not isinstance(item, str) for item in items):
        return "item_ids", "INVALID_VALUE"
    if len(items) > 1000:
        return "item_ids", "TOO_MANY_ITEMS"
    return None if items or one.get("user_id") else ("user_id", "EMPTY")


def _place(request: Any, name: str, item: int) -> str:
    """Gives the path of an element of an input whose items have one each and are BYTES."""
    names = [given.name for given in request.inputs]
    if name not in names:
        return "inputs"
    if request.raw_input_contents:
        return f"raw_input_contents[{names.index(name)}]"
    return f"inputs[{names.index(name)}].contents.bytes_contents[{item}]"


def _names(request: Any, told: dict[str, Any]) -> set[Refusal]:
    broken: set[Refusal] = set()
    given = [one.name for one in request.inputs]
    for at, name in enumerate(given):
        if name not in told:
            broken.add(invalid(f"inputs[{at}].name", "UNKNOWN_NAME"))
        elif name in given[:at]:
            broken.add(invalid(f"inputs[{at}].name", "DUPLICATE_NAME"))
    if not given or any(name not in given and not tensor.get("optional") for name, tensor in told.items()):
        broken.add(invalid("inputs", "EMPTY"))
    if request.raw_input_contents and len(request.raw_input_contents) != len(given):
        broken.add(invalid("raw_input_contents", "WRONG_SHAPE"))
    return broken


def _outputs(request: Any, schema: Any) -> set[Refusal]:
    told = {tensor["name"]: tensor for tensor in schema["outputs"]}
    broken: set[Refusal] = set()
    names = [one.name for one in request.outputs]
    for at, asked in enumerate(request.outputs):
        place = f"outputs[{at}]"
        if asked.name not in told:
            broken.add(invalid(f"{place}.name", "UNKNOWN_NAME"))
            continue
        if asked.name in names[:at]:
            broken.add(invalid(f"{place}.name", "DUPLICATE_NAME"))
        if _lies_in_shared_memory(asked):
            broken.add(invalid(f"{place}.parameters[shared_memory_region]", "INVALID_VALUE"))
        if "classification" in asked.parameters:
            field = f"{place}.parameters[classification]"
            if told[asked.name]["datatype"] not in FLOATS or len(told[asked.name]["shape"]) != 2:
                broken.add(invalid(field, "WRONG_TYPE"))
            if asked.parameters["classification"].int64_param < 1:
                broken.add(invalid(field, "OUT_OF_RANGE"))
    return broken


def _lies_in_shared_memory(tensor: Any) -> bool:
    return any(name.startswith("shared_memory_") for name in tensor.parameters)


def _tensor(request: Any, at: int, told: Any, elements: dict[str, list[Any]]) -> set[Refusal]:
    """Judges one input, and reads its elements when nothing is wrong with it."""
    given, place, allowed = request.inputs[at], f"inputs[{at}]", told["shape"]
    shape, broken = list(given.shape), set[Refusal]()
    if given.datatype != told["datatype"]:
        broken.add(invalid(f"{place}.datatype", "WRONG_TYPE"))
    if _lies_in_shared_memory(given):
        broken.add(invalid(f"{place}.parameters[shared_memory_region]", "INVALID_VALUE"))
    if len(shape) != len(allowed):
        return broken | {invalid(f"{place}.shape", "WRONG_SHAPE")}
    if not 1 <= shape[0] <= MOST_ITEMS:
        reason = "TOO_MANY_ITEMS" if shape[0] > 0 else "WRONG_SHAPE" if shape[0] else "EMPTY"
        broken.add(invalid(f"{place}.shape[0]", reason))
    if list(request.inputs[0].shape[:1]) != shape[:1]:
        broken.add(invalid(f"{place}.shape[0]", "WRONG_SHAPE"))
    for axis in range(1, len(shape)):
        if shape[axis] < 1 if allowed[axis] == -1 else shape[axis] != allowed[axis]:
            broken.add(invalid(f"{place}.shape[{axis}]", "WRONG_SHAPE"))
    if not broken and math.prod(shape) > MOST_ELEMENTS:
        broken.add(invalid(f"{place}.shape", "WRONG_SHAPE"))
    raw = request.raw_input_contents
    if not broken and (not raw or at < len(raw)):
        judge = _raw if raw else _typed
        broken |= judge(request, at, told, elements)
    return broken


def _raw(request: Any, at: int, told: Any, elements: dict[str, list[Any]]) -> set[Refusal]:
    given, raw, field = request.inputs[at], request.raw_input_contents[at], f"raw_input_contents[{at}]"
    count = math.prod(given.shape)
    if given.HasField("contents"):
        return {invalid(f"inputs[{at}].contents", "CONFLICT")}
    if told["datatype"] == "BYTES":
        found = _unpacked(raw)
        if found is None or len(found) != count:
            broken = {invalid(field, "WRONG_SHAPE")}
            return broken | _values(found or [], told, [field] * len(found or []))
        return _values(found, told, [field] * count, elements)
    if len(raw) != count * width(told["datatype"]):
        return {invalid(field, "WRONG_SHAPE")}
    values = list(struct.unpack(f"<{count}{CODES[told['datatype']]}", raw))
    return _values(values, told, [field] * count, elements)


def _typed(request: Any, at: int, told: Any, elements: dict[str, list[Any]]) -> set[Refusal]:
    given, holder = request.inputs[at], HOLDERS.get(told["datatype"])
    place = f"inputs[{at}].contents"
    if holder is None:
        return {invalid(place, "WRONG_TYPE")}
    broken = {
        invalid(f"{place}.{other.name}", "WRONG_TYPE")
        for other, _ in given.contents.ListFields()
        if other.name != holder
    }
    values = list(getattr(given.contents, holder))
    if len(values) != math.prod(given.shape):
        broken.add(invalid(f"{place}.{holder}", "WRONG_SHAPE"))
    return broken or _values(values, told, [f"{place}.{holder}[{index}]" for index in range(len(values))], elements)


def _unpacked(raw: bytes) -> list[bytes] | None:
    """Takes BYTES apart; None when they end too early."""
    found: list[bytes] = []
    while raw:
        if len(raw) < 4 or len(raw) < 4 + struct.unpack("<I", raw[:4])[0]:
            return None
        size = struct.unpack("<I", raw[:4])[0]
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


def _values(
    values: list[Any], told: Any, fields: list[str], elements: dict[str, list[Any]] | None = None
) -> set[Refusal]:
    """Judges elements one by one, and keeps them when nothing is wrong."""
    judge = _text if told["datatype"] == "BYTES" else _number
    allowed = _allowed(told)
    broken: set[Refusal] = set()
    if judge is _text or not _are_all_good(values, allowed):
        reasons = [judge(value, told, allowed) for value in values]
        broken = {invalid(field, reason) for field, reason in zip(fields, reasons, strict=True) if reason}
    if elements is not None and not broken:
        is_text = told["datatype"] == "BYTES" and told.get("content")
        elements[told["name"]] = [value.decode() for value in values] if is_text else values
    return broken


def _allowed(told: Any) -> tuple[float, float]:
    """The least and the most that a number may be, those of floats as the datatype holds them."""
    datatype = told["datatype"]
    if datatype == "BYTES":
        return 0, 0
    if datatype in FLOATS:
        ends = [told.get("lowest", -math.inf), told.get("highest", math.inf)]
        least, most = struct.unpack(f"<2{CODES[datatype]}", packed(datatype, ends))
        return least, most
    least, most = limits(datatype)
    return max(least, told.get("lowest", least)), min(most, told.get("highest", most))


def _are_all_good(numbers: list[Any], allowed: tuple[float, float]) -> bool:
    """Looks at all pixels of an image at once."""
    is_finite = all(map(math.isfinite, numbers))
    return is_finite and allowed[0] <= min(numbers) and max(numbers) <= allowed[1]


def _number(value: float, told: Any, allowed: tuple[float, float]) -> str:
    """Gives the reason for which a number is refused; empty for a good one."""
    if not math.isfinite(value):
        return "NOT_FINITE"
    return "" if allowed[0] <= value <= allowed[1] else "OUT_OF_RANGE"


def _text(value: bytes, told: Any, allowed: tuple[float, float]) -> str:
    """Gives the reason for which an element of BYTES is refused; empty for a good one."""
    if len(value) > told.get("most_bytes", math.inf):
        return "TOO_LONG"
    if not told.get("content"):
        return ""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "INVALID_VALUE"
    return "TOO_LONG" if len(text) > told.get("most_characters", math.inf) else ""


def _checksums(request: Any, elements: dict[str, list[Any]]) -> list[int]:
    """Computes what the model of datatypes must answer for each item, from the elements of each input in a row."""
    datatype_of = {given.name: given.datatype for given in request.inputs}
    count = request.inputs[0].shape[0]
    found = []
    for at in range(count):
        parts = []
        for name in sorted(elements):
            size = len(elements[name]) // count
            parts += [name.encode(), packed(datatype_of[name], elements[name][at * size : (at + 1) * size])]
        found.append(zlib.crc32(b"".join(parts)))
    return found
