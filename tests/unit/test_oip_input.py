"""What the Open Inference Protocol refuses before any model code, and which field it names."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import endpoints
import grpc
import inference
import numpy as np
import pytest
from inference import batch, infer, packed, refusal

from pipelines.schema import Schema, Tensor
from services.oip import open_inference_pb2 as pb

Change = Callable[[pb.ModelInferRequest], Any]
SIZE = 8
PIXELS = np.zeros((2, 28, 28), np.uint8)


class Anything:
    """A model with an input of every kind, all optional, that counts what reaches it."""

    def __init__(self) -> None:
        self.seen = 0

    def examples(self) -> list[Any]:
        return [0]

    def schema(self) -> Schema:
        kinds = ("BOOL", "UINT8", "INT16", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64")
        numbers = [Tensor(kind.lower(), kind, (-1,), optional=True) for kind in kinds]
        limited = [
            Tensor("percent", "FP32", (-1, -1), lowest=0, highest=100, optional=True),
            Tensor("blob", "BYTES", (-1, 2), most_bytes=SIZE, optional=True),
            Tensor("word", "BYTES", (-1,), content="text", most_characters=SIZE, optional=True),
        ]
        return Schema((*numbers, *limited), (Tensor("count", "INT64", (-1,)), Tensor("half", "FP16", (-1,))))

    def from_tensors(self, tensors: dict[str, Any]) -> list[Any]:
        return list(range(len(next(iter(tensors.values())))))

    def to_tensors(self, predictions: list[Any]) -> dict[str, Any]:
        return {"count": np.array(predictions), "half": np.array(predictions, np.float16)}

    def predict(self, inputs: list[Any]) -> list[Any]:
        self.seen += 1
        return inputs


@pytest.fixture(scope="module")
def model() -> Anything:
    return Anything()


@pytest.fixture(scope="module")
def channel(model: Anything, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    own = [endpoints.loaded("anything", model), endpoints.loaded("parity", inference.own_model("parity"))]
    models = [*endpoints.real_models(), *own]
    folder = tmp_path_factory.mktemp("metrics")
    with endpoints.serving(models, folder, max_items=SIZE) as running, grpc.insecure_channel(running.address) as opened:
        yield opened


def refused(channel: grpc.Channel, request: pb.ModelInferRequest) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request)
    code, violations = refusal(caught.value)
    return code, *violations[0]


def changed(request: pb.ModelInferRequest, change: Change) -> pb.ModelInferRequest:
    change(request)
    return request


def images(raw: bool = True) -> pb.ModelInferRequest:
    return batch("classifier", raw=raw, image=("UINT8", PIXELS))


def texts(*elements: bytes, raw: bool = False) -> pb.ModelInferRequest:
    return batch("sentiment", raw=raw, text=("BYTES", list(elements)))


def set_shape(*shape: int) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        request.inputs[0].shape[:] = shape

    return change


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (lambda r: r.ClearField("inputs"), "inputs", "lacks 'image' of UINT8"),
        (lambda r: setattr(r.inputs[0], "name", "pixels"), "inputs[0].name", "takes image"),
        (lambda r: setattr(r.inputs[0], "name", "x" * 10_000), "inputs[0].name", "takes image"),
        (lambda r: r.inputs.append(r.inputs[0]), "inputs[1].name", "for the second time"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP32"), "inputs[0].datatype", "image is of UINT8"),
        (lambda r: setattr(r.inputs[0], "datatype", ""), "inputs[0].datatype", "image is of UINT8"),
        (set_shape(), "inputs[0].shape", "has 0 dimensions"),
        (set_shape(2, 784), "inputs[0].shape", "has 2 dimensions; image has 3: [-1, 28, 28]"),
        (set_shape(*[1] * 5000), "inputs[0].shape", "has 5000 dimensions"),
        (set_shape(-2, 28, 28), "inputs[0].shape[0]", "is -2; send 1 to 8"),
        (set_shape(0, 28, 28), "inputs[0].shape[0]", "is 0; send 1 to 8"),
        (set_shape(9, 28, 28), "inputs[0].shape[0]", "is 9; send 1 to 8"),
        (set_shape(2, 28, 29), "inputs[0].shape[2]", "is 29; it must be 28"),
        (set_shape(2, -28, -28), "inputs[0].shape[1]", "is -28; it must be 28"),
        (set_shape(2, 2**62, 28), "inputs[0].shape[1]", "it must be 28"),
        (set_shape(3, 28, 28), "raw_input_contents[0]", "is 1568 bytes long; [3, 28, 28] of UINT8 needs 2352"),
        (lambda r: r.raw_input_contents.append(b""), "raw_input_contents", "holds 2; there are 1 inputs"),
        (lambda r: r.inputs[0].contents.uint_contents.append(1), "inputs[0].contents", "beside raw_input_contents"),
        (lambda r: r.ClearField("raw_input_contents"), "inputs[0].contents.uint_contents", "holds 0 elements"),
        (
            lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "/dev/shm/x"),
            "inputs[0].parameters[shared_memory_region]",
            "shared memory",
        ),
        (
            lambda r: setattr(r.inputs[0].parameters["shared_memory_offset"], "int64_param", 8),
            "inputs[0].parameters[shared_memory_region]",
            "shared memory",
        ),
        (
            lambda r: setattr(r.inputs[0].parameters["shared_memory_offsets"], "int64_param", 8),
            "inputs[0].parameters[shared_memory_region]",
            "shared memory",
        ),
        (lambda r: r.outputs.add(name="boxes"), "outputs[0].name", "this model gives label, scores"),
        (lambda r: [r.outputs.add(name="label") for _ in range(2)], "outputs[1].name", "for the second time"),
        (
            lambda r: setattr(r.outputs.add(name="label").parameters["classification"], "int64_param", 1),
            "outputs[0].parameters[classification]",
            "holds no scores",
        ),
        (
            lambda r: setattr(r.outputs.add(name="scores").parameters["classification"], "int64_param", -1),
            "outputs[0].parameters[classification]",
            "is -1; it must be 1 or more",
        ),
        (
            lambda r: setattr(r.outputs.add(name="scores").parameters["shared_memory_region"], "string_param", "x"),
            "outputs[0].parameters[shared_memory_region]",
            "shared memory",
        ),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_by_field(
    channel: grpc.Channel, change: Change, field: str, words: str
) -> None:
    code, path, description = refused(channel, changed(images(), change))
    assert (code, path) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert words in description


def tensor(name: str, datatype: str, values: Any, raw: bool = False) -> pb.ModelInferRequest:
    return batch("anything", raw=raw, **{name: (datatype, values)})


def contents(datatype: str, field: str, values: list[Any]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="anything")
    given = request.inputs.add(name=datatype.lower(), datatype=datatype, shape=[len(values)])
    getattr(given.contents, field).extend(values)
    return request


def raw_bytes(*raw: bytes, name: str = "word", shape: tuple[int, ...] = (1,)) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="anything", raw_input_contents=raw)
    request.inputs.add(name=name, datatype="BYTES", shape=shape)
    return request


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (tensor("fp32", "FP32", [1.0, np.nan]), "inputs[0].contents.fp32_contents[1]", "is nan; it must be finite"),
        (tensor("fp64", "FP64", [-np.inf]), "inputs[0].contents.fp64_contents[0]", "is -inf"),
        (tensor("fp32", "FP32", [1.0, np.inf], raw=True), "raw_input_contents[0]", "element 1 is inf"),
        (tensor("fp16", "FP16", [np.nan], raw=True), "raw_input_contents[0]", "element 0 is nan"),
        (tensor("percent", "FP32", [[1, 101]]), "inputs[0].contents.fp32_contents[1]", "most allowed is 100"),
        (tensor("percent", "FP32", [[-1, 1]], raw=True), "raw_input_contents[0]", "element 0 is -1.0; the least"),
        (contents("UINT8", "uint_contents", [1, 256]), "inputs[0].contents.uint_contents[1]", "is 256; it must be 0"),
        (contents("INT16", "int_contents", [-40_000]), "inputs[0].contents.int_contents[0]", "is -40000; it must be"),
        (contents("FP32", "fp64_contents", [1.0]), "inputs[0].contents.fp64_contents", "which fp32_contents holds"),
        (contents("FP16", "fp32_contents", [1.0]), "inputs[0].contents", "cannot hold FP16; send raw"),
        (raw_bytes(b"\2", name="word"), "raw_input_contents[0]", "ends within element 0, at byte 1"),
        (raw_bytes(struct.pack("<I", 2**32 - 1)), "raw_input_contents[0]", "ends within element 0"),
        (raw_bytes(packed([b"a", b"b"])), "raw_input_contents[0]", "holds more than 1 elements; the shape needs 1"),
        (raw_bytes(packed([b"a"]), shape=(2,)), "raw_input_contents[0]", "holds 1 elements; the shape needs 2"),
        (raw_bytes(packed([b"\xff"])), "raw_input_contents[0]", "element 0 is not valid UTF-8"),
        (tensor("word", "BYTES", [b"ok", b"\xc3"]), "inputs[0].contents.bytes_contents[1]", "is not valid UTF-8"),
        (tensor("word", "BYTES", [b"x" * 9]), "inputs[0].contents.bytes_contents[0]", "9 characters long; the most is"),
        (tensor("blob", "BYTES", [[b"", b"x" * 9]]), "inputs[0].contents.bytes_contents[1]", "9 bytes long; the most"),
        (raw_bytes(b"", name="blob", shape=(1, 2)), "raw_input_contents[0]", "holds 0 elements; the shape needs 2"),
    ],
)
def test_an_element_that_is_wrong_is_named(
    channel: grpc.Channel, request_: pb.ModelInferRequest, field: str, words: str
) -> None:
    code, path, description = refused(channel, request_)
    assert (code, path) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert words in description


def test_raw_booleans_are_0_or_1(channel: grpc.Channel) -> None:
    request = tensor("bool", "BOOL", [True, False], raw=True)
    request.raw_input_contents[0] = b"\1\2"
    assert refused(channel, request)[1] == "raw_input_contents[0]"


def test_dimensions_that_overflow_are_refused_before_memory_is_taken(channel: grpc.Channel) -> None:
    request = tensor("percent", "FP32", [[1]], raw=True)
    request.inputs[0].shape[:] = [2, 2**62]
    assert refused(channel, request)[1] == "inputs[0].shape"
    request.inputs[0].shape[:] = [1, 2**61]
    assert "needs 9223372036854775808" in refused(channel, request)[2]


def test_inputs_that_disagree_about_the_number_of_items_are_refused(channel: grpc.Channel) -> None:
    request = batch("anything", fp32=("FP32", [1, 2]), fp64=("FP64", [1]))
    assert refused(channel, request)[1:] == ("inputs[1].shape[0]", "is 1, but inputs[0] holds 2 items")


def test_no_model_sees_what_the_schema_does_not_allow(channel: grpc.Channel, model: Anything) -> None:
    before = model.seen
    refused(channel, tensor("fp32", "FP32", [np.nan]))
    assert model.seen == before


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("INT16", [-32768, 32767]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [1, 2**64 - 1]),
        ("FP32", [-1.5, 3e38]),
        ("FP64", [-1.5, 1e308]),
    ],
)
def test_every_datatype_takes_the_whole_of_its_range(
    channel: grpc.Channel, datatype: str, values: list[Any], raw: bool
) -> None:
    request = tensor(datatype.lower(), datatype, values, raw)
    request.outputs.add(name="count")
    assert inference.values(infer(channel, request)) == {"count": [0, 1]}


def test_half_precision_travels_raw_even_where_the_request_is_typed(channel: grpc.Channel) -> None:
    response = infer(channel, tensor("fp32", "FP32", [1, 2]))
    assert len(response.raw_output_contents) == 2
    assert not response.outputs[0].HasField("contents")
    assert inference.values(response) == {"count": [0, 1], "half": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("name", "version", "field"),
    [("weather", "", "model_name"), ("", "", "model_name"), ("parity", "8", "model_version")],
)
def test_a_model_or_a_version_that_is_not_here_is_not_found(
    channel: grpc.Channel, name: str, version: str, field: str
) -> None:
    request = batch(name, input=("BYTES", [b"1"]))
    request.model_version = version
    assert refused(channel, request)[:2] == (grpc.StatusCode.NOT_FOUND, field)


def test_every_bad_item_of_a_call_is_named(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, batch("parity", input=("BYTES", [b"1", b"2", b"01", b"", b"x"])))
    code, violations = refusal(caught.value)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in violations] == [f"inputs[0].contents.bytes_contents[{item}]" for item in (1, 3, 4)]
    assert violations[1][1] == "the text is ''; it must be of 0s and 1s, at least one"
    assert "(and 2 more bad items)" in violations[0][1]


def test_what_a_model_says_of_long_items_fits_into_the_headers(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, batch("parity", input=("BYTES", ["好".encode() * 100_000] * SIZE)))
    code, violations = refusal(caught.value)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert 1 <= len(violations) <= SIZE


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"user_id": ("BYTES", [b""])}, "inputs[0].contents.bytes_contents[0]"),
        ({"user_id": ("BYTES", [b""]), "item_ids": ("BYTES", [b"17,4"])}, "inputs[1].contents.bytes_contents[0]"),
        ({"user_id": ("BYTES", [b""]), "item_ids": ("BYTES", [b"[17]"])}, "inputs[1].contents.bytes_contents[0]"),
        ({"user_id": ("BYTES", [b"1"]), "k": ("INT64", [0])}, "inputs[1].contents.int64_contents[0]"),
        ({"user_id": ("BYTES", [b"1"]), "k": ("INT64", [10**9])}, "inputs[1].contents.int64_contents[0]"),
        ({"k": ("INT64", [3])}, "inputs"),
        ({}, "inputs"),
    ],
)
def test_a_query_is_refused_by_the_tensor_that_is_wrong(
    channel: grpc.Channel, query: dict[str, Any], field: str
) -> None:
    assert refused(channel, batch("recommender", **query))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_blank_text_is_refused_as_the_typed_service_refuses_it(channel: grpc.Channel) -> None:
    code, field, words = refused(channel, texts(b"fine", b"  "))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "inputs[0].contents.bytes_contents[1]")
    assert "blank" in words


@pytest.mark.parametrize(
    ("method", "body"),
    [
        *((method, b"\xff\xff") for method in ("ModelInfer", "ModelReady", "ModelMetadata", "ServerLive")),
        *((method, b"\x0a\x02\xc3\x28") for method in ("ModelInfer", "ModelReady", "ModelMetadata")),
        ("ModelInfer", b"\x2a\x7f"),
    ],
)
def test_bytes_that_are_no_message_are_invalid(channel: grpc.Channel, method: str, body: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(body, timeout=10)
    assert refusal(caught.value)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_model_that_breaks_its_word_is_an_internal_error_without_its_words(tmp_path: Path) -> None:
    models = [endpoints.loaded("broken", Broken())]
    with (
        endpoints.serving(models, tmp_path) as running,
        grpc.insecure_channel(running.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        infer(channel, batch("broken", fp32=("FP32", [1])))
    code, violations = refusal(caught.value)
    assert (code, violations) == (grpc.StatusCode.INTERNAL, [])
    assert "secret" not in str(caught.value)


class Broken(Anything):
    """A model whose tensors cannot be had."""

    def to_tensors(self, predictions: list[Any]) -> dict[str, Any]:
        raise RuntimeError("secret of the model")
