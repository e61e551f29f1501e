"""Calls over the Open Inference Protocol, as tests make them: with the protocol's own messages and nothing besides."""

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from google.rpc import error_details_pb2, status_pb2

from pipelines import tasks
from pipelines.schema import BYTES, DATATYPES
from services.oip import open_inference_pb2 as pb
from services.oip.reading import FIELDS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def call(channel: grpc.Channel, method: str, request: Any, reply: Any, timeout: float = 10) -> Any:
    path = f"/inference.GRPCInferenceService/{method}"
    return channel.unary_unary(path, type(request).SerializeToString, reply.FromString)(request, timeout=timeout)


def infer(channel: grpc.Channel, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return call(channel, "ModelInfer", request, pb.ModelInferResponse)


def batch(model: str, *, raw: bool = False, **tensors: tuple[str, Any]) -> pb.ModelInferRequest:
    """Builds a request: each tensor is (datatype, nested lists or an array)."""
    request = pb.ModelInferRequest(model_name=model)
    for name, (datatype, values) in tensors.items():
        array = np.array(values, dtype=DATATYPES[datatype])
        given = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            request.raw_input_contents.append(packed(array.ravel()) if datatype == BYTES else array.tobytes())
        else:
            getattr(given.contents, FIELDS[datatype]).extend(array.ravel().tolist())
    return request


def packed(elements: Any) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in elements)


def values(response: pb.ModelInferResponse) -> dict[str, Any]:
    """Reads the outputs of a response, raw or typed, as nested lists by name."""
    found = {}
    for at, output in enumerate(response.outputs):
        if not response.raw_output_contents:
            flat = list(getattr(output.contents, FIELDS[output.datatype]))
        elif output.datatype == BYTES:
            flat = _unpacked(response.raw_output_contents[at])
        else:
            flat = np.frombuffer(response.raw_output_contents[at], DATATYPES[output.datatype]).tolist()
        found[output.name] = np.array([*flat, None], dtype=object)[:-1].reshape(tuple(output.shape)).tolist()
    return found


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, list[tuple[str, str]]]:
    """The code of a call that was refused, and the fields at fault with what is wrong with each."""
    code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
    details: str = error.details()  # type: ignore[attr-defined]
    assert len(details) < 1000 and "Traceback" not in details
    trailers: dict[str, bytes] = dict(error.trailing_metadata())  # type: ignore[attr-defined]
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    violations = error_details_pb2.BadRequest()
    found = [detail.Unpack(violations) for detail in status.details]
    return code, [(one.field, one.description) for one in violations.field_violations] if any(found) else []


def own_model(name: str) -> Any:
    """An untrained model of one of the examples' tasks, which say nothing of tensors."""
    module = tasks.find(str(EXAMPLES / name)).model
    torch.manual_seed(0)
    return module.Model(16) if name == "parity" else module.Model(torch.nn.Linear(1, 1))


def _unpacked(raw: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        found.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return found
