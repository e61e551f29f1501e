"""Writes predictions as a ModelInferResponse."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.schema import BYTES, DATATYPES, FLOATS, Array, Arrays, Schema, Tensor
from services.errors import BadInput
from services.oip import open_inference_pb2 as pb
from services.oip.reading import FIELDS, check_place, shortened
from services.reasons import Reason
from services.service import MOST_ANSWERS

CLASSIFICATION = "classification"
"""Triton's parameter of a requested output: how many of the best scores to name."""


@dataclass(frozen=True)
class Wanted:
    """An output that a response shall hold."""

    tensor: Tensor
    best_count: int = 0
    """How many of the best scores to name instead of giving all; 0 gives all."""


def wanted(request: pb.ModelInferRequest, schema: Schema) -> list[Wanted]:
    """Reads which outputs a request asks for; none named means all. Raises BadInput for what the model has not."""
    if not request.outputs:
        return [Wanted(tensor) for tensor in schema.outputs]
    found: dict[str, Wanted] = {}
    for at, asked in enumerate(request.outputs):
        tensor = schema.output_named.get(asked.name)
        if tensor is None:
            names = ", ".join(schema.output_named)
            problem = f"is {shortened(asked.name)}; this model gives {names}"
            raise BadInput(f"outputs[{at}].name", problem, Reason.UNKNOWN_NAME)
        if asked.name in found:
            raise BadInput(f"outputs[{at}].name", f"is {asked.name!r} for the second time", Reason.DUPLICATE_NAME)
        check_place(asked, f"outputs[{at}]")
        field = f"outputs[{at}].parameters[{CLASSIFICATION}]"
        best_count = _best_count(asked, tensor, field)
        _check_count(min(best_count, tensor.shape[-1]) * request.inputs[0].shape[0], field)
        found[asked.name] = Wanted(tensor, best_count)
    return list(found.values())


def response(reply: pb.ModelInferResponse, outputs: list[Wanted], arrays: Arrays, raw: bool) -> bytes:
    """Adds outputs to a response that has its name, version and id, and returns its bytes.

    raw: whether as raw contents, as FP16 must always be.
    """
    raw = raw or any(output.tensor.datatype not in FIELDS for output in outputs)
    for output in outputs:
        array, datatype = arrays[output.tensor.name], output.tensor.datatype
        if output.best_count:
            array, datatype = _named_best(array, output), BYTES
        told = reply.outputs.add(name=output.tensor.name, datatype=datatype, shape=array.shape)
        if datatype == BYTES:
            elements = [one.encode(errors="replace") if isinstance(one, str) else one for one in array.ravel().tolist()]
            if raw:
                reply.raw_output_contents.append(b"".join(_packed(elements)))
            else:
                told.contents.bytes_contents.extend(elements)
            continue
        array = array.astype(DATATYPES[datatype], casting="same_kind", copy=False)
        if raw:
            reply.raw_output_contents.append(array.tobytes())
        else:
            getattr(told.contents, FIELDS[datatype]).extend(array.ravel().tolist())
    return reply.SerializeToString()


def _best_count(asked: Any, tensor: Tensor, field: str) -> int:
    """Reads how many of the best scores are asked for; 0 when all are."""
    if CLASSIFICATION not in asked.parameters:
        return 0
    count = asked.parameters[CLASSIFICATION].int64_param
    if tensor.datatype not in FLOATS or len(tensor.shape) != 2:
        raise BadInput(field, f"is set, but {tensor.name} holds no scores", Reason.WRONG_TYPE)
    if count < 1:
        raise BadInput(field, f"is {count}; it must be 1 or more", Reason.OUT_OF_RANGE)
    return count


def _check_count(count: int, field: str) -> None:
    """Raises BadInput when more scores would be named than a reply may hold; takes no note of less than nothing."""
    if count > MOST_ANSWERS:
        problem = f"asks for {count:,} names together; the most in a call is {MOST_ANSWERS:,}"
        raise BadInput(field, problem, Reason.TOO_MANY_ITEMS, limit=MOST_ANSWERS)


def _named_best(scores_BK: Array, output: Wanted) -> Array:
    """Names the best scores of each item, as "score:index:label" in BYTES [B, k]."""
    labels = output.tensor.labels
    best_BK = np.argsort(-scores_BK, axis=1, kind="stable")[:, : output.best_count]
    named = np.empty(best_BK.shape, dtype=object)
    for row, (scores_K, best_K) in enumerate(zip(scores_BK.tolist(), best_BK.tolist(), strict=True)):
        for column, at in enumerate(best_K):
            named[row, column] = f"{scores_K[at]:f}:{at}" + (f":{labels[at]}" if labels else "")
    return named


def _packed(elements: list[bytes]) -> list[bytes]:
    return [part for element in elements for part in (len(element).to_bytes(4, "little"), element)]
