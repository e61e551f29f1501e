"""Models of a user's own as callers of Open Inference see them: their JSON in and out."""

import json
from collections.abc import Iterator
from typing import Any

import endpoints
import grpc
import pytest
from inference import batch, infer, refusal, values

from services.oip import open_inference_pb2 as pb

LARGE = b'{"x": 1e308}'
"""What is finite, and twice of which is not."""


class Doubling:
    """A model that says nothing of tensors, and takes and gives what only JSON holds."""

    def examples(self) -> list[dict[str, float]]:
        return [{"x": 1.5}]

    def predict(self, inputs: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{"y": 2 * one["x"]} for one in inputs]


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    own = [endpoints.loaded("doubling", Doubling())]
    folder = tmp_path_factory.mktemp("metrics")
    with endpoints.serving(own, folder) as running, grpc.insecure_channel(running.address) as opened:
        yield opened


def items(*texts: bytes) -> pb.ModelInferRequest:
    return batch("doubling", input=("BYTES", list(texts)))


def test_json_goes_in_and_out(channel: grpc.Channel) -> None:
    answered: Any = values(infer(channel, items(b'{"x": 4}', b'{"x": 2.5e-3}')))
    assert [json.loads(text) for text in answered["output"]] == [{"y": 8}, {"y": 0.005}]


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" * 400 + b".0"])
def test_a_number_that_would_be_infinite_is_refused_at_its_element(channel: grpc.Channel, number: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, items(b'{"x": 4}', b'{"x": ' + number + b"}"))
    assert refusal(caught.value) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        [("inputs[0].contents.bytes_contents[1]", "is JSON with a number that is too large")],
    )


def test_an_answer_that_is_not_finite_is_a_mistake_of_the_model(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, items(LARGE))
    assert refusal(caught.value) == (grpc.StatusCode.INTERNAL, [])
    assert "float values are not JSON" in caplog.text
    assert infer(channel, items(b'{"x": 4}')).outputs
