"""Bad items of Open Inference calls: codes, reasons and paths are those that docs/errors.md gives."""

from collections.abc import Iterator
from typing import Any

import endpoints
import grpc
import inference
import numpy as np
import pytest
from google.rpc import code_pb2, status_pb2
from inference import batch, infer

from benchmarks.fuzzing.verdicts import INVALID, Refusal, refusal_from
from pipelines.schema import Schema, Tensor

KNOWN = b"a user in the training data"
"""Stands for the id of one."""
TOO_LONG_LIST = b"[" + b",".join([b'"1"'] * 1001) + b"]"
SIDE = 2


class Picky:
    """A model of a user's own that knows no images."""

    def examples(self) -> list[Any]:
        return [np.zeros((SIDE, SIDE), np.uint8)]

    def schema(self) -> Schema:
        return Schema((Tensor("image", "UINT8", (-1, SIDE, SIDE)),), (Tensor("count", "INT64", (-1,)),))

    def from_tensors(self, tensors: dict[str, Any]) -> list[Any]:
        return list(tensors["image"])

    def to_tensors(self, predictions: list[Any]) -> dict[str, Any]:
        return {"count": np.array(predictions)}

    def predict(self, inputs: list[Any]) -> list[Any]:
        return [LookupError("no such image") if one.any() else 0 for one in inputs]


class Unsure:
    """A model of a user's own that says nothing of tensors, and refuses what it is told to."""

    def examples(self) -> list[str]:
        return ["fine"]

    def predict(self, inputs: list[str]) -> list[Any]:
        problems = {"unknown": LookupError("is unknown"), "wrong": ValueError("is wrong")}
        return [problems.get(one, one) for one in inputs]


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    own = [
        endpoints.loaded("picky", Picky()),
        endpoints.loaded("unsure", Unsure()),
        endpoints.loaded("parity", inference.own_model("parity")),
    ]
    models = [*endpoints.real_models(), *own]
    folder = tmp_path_factory.mktemp("metrics")
    with endpoints.serving(models, folder) as running, grpc.insecure_channel(running.address) as opened:
        yield opened


def refused(channel: grpc.Channel, model: str, *, raw: bool, **tensors: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, batch(model, raw=raw, **tensors))
    return refusal_from(caught.value)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("model", "tensors", "code", "reason"),
    [
        ("sentiment", {"text": [b"fine", b" "]}, INVALID, "EMPTY"),
        ("recommender", {"user_id": [KNOWN, b"nobody"]}, "NOT_FOUND", "UNKNOWN_USER"),
        ("recommender", {"user_id": [KNOWN, b""]}, INVALID, "EMPTY"),
        ("recommender", {"item_ids": [b"[]", b'["no item"]'], "user_id": [KNOWN, b""]}, "NOT_FOUND", "UNKNOWN_ITEM"),
        ("recommender", {"item_ids": [b'["1"]', b"17,4"]}, INVALID, "INVALID_VALUE"),
        ("recommender", {"item_ids": [b'["1"]', TOO_LONG_LIST]}, INVALID, "TOO_MANY_ITEMS"),
        ("parity", {"input": [b"1", b"2"]}, INVALID, "INVALID_VALUE"),
    ],
)
def test_a_bad_item_has_the_code_the_reason_and_a_path_that_are_documented(
    channel: grpc.Channel, model: str, tensors: dict[str, list[bytes]], code: str, reason: str, raw: bool
) -> None:
    user = endpoints.real_models()[2].model.catalogue.user_ids[0].encode()
    sent = {name: ("BYTES", [user if one == KNOWN else one for one in values]) for name, values in tensors.items()}
    path = "raw_input_contents[0]" if raw else "inputs[0].contents.bytes_contents[1]"
    assert refused(channel, model, raw=raw, **sent) == Refusal(code, path, reason)


@pytest.mark.parametrize(
    ("raw", "path"), [(True, "raw_input_contents[0]"), (False, "inputs[0].contents.uint_contents")]
)
def test_an_item_of_several_elements_is_named_in_words(channel: grpc.Channel, raw: bool, path: str) -> None:
    pixels = np.stack([np.full((SIDE, SIDE), value, np.uint8) for value in (0, 1, 1)])
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, batch("picky", raw=raw, image=("UINT8", pixels)))
    assert refusal_from(caught.value) == Refusal("NOT_FOUND", path, "UNKNOWN_VALUE")
    _, violations = inference.refusal(caught.value)
    assert [words for _, words in violations] == [
        "item 1: no such image (and 1 more bad items)",
        "item 2: no such image",
    ]


def test_what_is_wrong_counts_before_what_is_unknown(channel: grpc.Channel) -> None:
    unknown = ("BYTES", [b'["no item"]', b'["none"]'])
    assert refused(channel, "recommender", raw=False, item_ids=unknown).code == "NOT_FOUND"
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, batch("unsure", input=("BYTES", [b"unknown", b"wrong", b"unknown"])))
    assert refusal_from(caught.value) == Refusal(INVALID, "inputs[0].contents.bytes_contents[1]", "INVALID_VALUE")
    fields = [field for field, _ in inference.refusal(caught.value)[1]]
    assert fields == [f"inputs[0].contents.bytes_contents[{item}]" for item in (1, 0, 2)]


@pytest.mark.parametrize("long", ["\N{GRINNING FACE}" * 400, "a" * 400])
def test_a_refusal_of_one_long_and_many_short_items_fits_into_the_headers(channel: grpc.Channel, long: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, batch("parity", input=("BYTES", [long.encode(), *[b"2"] * 50])))
    told = status_pb2.Status.FromString(endpoints.trailers(caught.value)["grpc-status-details-bin"])
    assert told.code == code_pb2.INVALID_ARGUMENT
    sent_bytes = sum(1 if 0x20 <= byte <= 0x7E else 3 for byte in told.message.encode()) + told.ByteSize() * 4 / 3
    assert sent_bytes < 7_000
    if long.isascii():
        assert len(inference.refusal(caught.value)[1]) > 10
