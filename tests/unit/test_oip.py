"""The Open Inference Protocol as its callers see it: what every model takes and gives, raw and typed."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import endpoints
import grpc
import inference
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflected
from inference import batch, call, infer, values

from eagerly.v1 import sentiment_pb2
from services.oip import open_inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """All three services with real models, and two tasks of a user's own."""
    own = [endpoints.loaded(name, inference.own_model(name)) for name in ("parity", "linear_regression")]
    models = [*endpoints.real_models(), *own]
    folder = tmp_path_factory.mktemp("metrics")
    with endpoints.serving(models, folder) as running, grpc.insecure_channel(running.address) as opened:
        yield opened


def metadata(channel: grpc.Channel, name: str) -> pb.ModelMetadataResponse:
    return call(channel, "ModelMetadata", pb.ModelMetadataRequest(name=name), pb.ModelMetadataResponse)


def described(tensors: Any) -> list[tuple[str, str, list[int]]]:
    return [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors]


def test_the_server_is_live_and_ready_and_says_what_it_is(channel: grpc.Channel) -> None:
    assert call(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert call(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    told = call(channel, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert (told.name, list(told.extensions)) == ("eagerly", ["classification"]) and told.version


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("sentiment", "", True), ("sentiment", "7", True), ("sentiment", "8", False), ("weather", "", False)],
)
def test_a_model_is_ready_when_it_is_here_in_that_version(
    channel: grpc.Channel, name: str, version: str, ready: bool
) -> None:
    request = pb.ModelReadyRequest(name=name, version=version)
    assert call(channel, "ModelReady", request, pb.ModelReadyResponse).ready is ready


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        (
            "classifier",
            [("image", "UINT8", [-1, 28, 28])],
            [("label", "BYTES", [-1]), ("scores", "FP32", [-1, 10])],
        ),
        ("sentiment", [("text", "BYTES", [-1])], [("label", "BYTES", [-1]), ("scores", "FP32", [-1, 2])]),
        (
            "recommender",
            [("user_id", "BYTES", [-1]), ("item_ids", "BYTES", [-1]), ("k", "INT64", [-1])],
            [("item_ids", "BYTES", [-1, -1]), ("scores", "FP32", [-1, -1])],
        ),
        ("parity", [("input", "BYTES", [-1])], [("output", "BYTES", [-1])]),
        ("linear_regression", [("input", "FP64", [-1])], [("output", "FP64", [-1])]),
    ],
)
def test_every_model_says_what_it_takes_and_gives(
    channel: grpc.Channel, name: str, inputs: list[Any], outputs: list[Any]
) -> None:
    told = metadata(channel, name)
    assert (told.name, list(told.versions), told.platform) == (name, ["7"], "pytorch_eager")
    assert described(told.inputs) == inputs and described(told.outputs) == outputs


@pytest.mark.parametrize("raw", [False, True])
def test_texts_are_labelled_as_the_model_itself_labels_them(channel: grpc.Channel, raw: bool) -> None:
    model = endpoints.real_models()[1].model
    texts = ["A warm film.", "味道一般", "dull"]
    response = infer(channel, batch("sentiment", raw=raw, text=("BYTES", [text.encode() for text in texts])))
    found = values(response)
    predictions = model.predict(texts)
    assert found["label"] == [prediction.labels[0][0].encode() for prediction in predictions]
    for row, prediction in zip(found["scores"], predictions, strict=True):
        assert row == pytest.approx([dict(prediction.labels)[label] for label in model.labels], rel=1e-5)
    assert bool(response.raw_output_contents) is raw
    assert all(output.HasField("contents") is not raw for output in response.outputs)
    assert (response.model_name, response.model_version) == ("sentiment", "7")


@pytest.mark.parametrize("raw", [False, True])
def test_pixels_are_classified_as_the_model_itself_classifies_them(channel: grpc.Channel, raw: bool) -> None:
    model = endpoints.real_models()[0].model
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    found = values(infer(channel, batch("classifier", raw=raw, image=("UINT8", pixels))))
    predictions = model.predict(list(pixels))
    assert found["label"] == [prediction.labels[0][0].encode() for prediction in predictions]
    assert np.allclose(found["scores"], [[dict(one.labels)[str(at)] for at in range(10)] for one in predictions])


def test_users_and_strangers_are_recommended_to_in_one_batch(channel: grpc.Channel) -> None:
    model = endpoints.real_models()[2].model
    known, stranger = model.examples()
    request = batch(
        "recommender",
        user_id=("BYTES", [known.user_id.encode(), b""]),
        item_ids=("BYTES", [b"", json.dumps(stranger.item_ids).encode()]),
        k=("INT64", [4, 2]),
    )
    found = values(infer(channel, request))
    first, second = model.predict([type(known)(known.user_id, [], 4), type(known)("", stranger.item_ids, 2)])
    assert found["item_ids"][0] == [item_id.encode() for item_id, _, _ in first.items]
    assert found["item_ids"][1] == [*(item_id.encode() for item_id, _, _ in second.items), b"", b""]
    assert found["scores"][0] == pytest.approx([score for _, score, _ in first.items], rel=1e-5)
    assert np.isnan(found["scores"][1][2:]).all()


def test_what_is_optional_may_be_left_out(channel: grpc.Channel) -> None:
    known = endpoints.real_models()[2].model.examples()[0]
    found = values(infer(channel, batch("recommender", user_id=("BYTES", [known.user_id.encode()]))))
    assert len(found["item_ids"][0]) == 10


def test_a_task_of_the_users_own_answers_though_it_says_nothing_of_tensors(channel: grpc.Channel) -> None:
    texts = [b"1", b"0110", b"111"]
    expected = [word.encode() for word in inference.own_model("parity").predict([text.decode() for text in texts])]
    assert values(infer(channel, batch("parity", input=("BYTES", texts)))) == {"output": expected}
    numbers = inference.own_model("linear_regression").predict([0.5, -2.0])
    assert values(infer(channel, batch("linear_regression", raw=True, input=("FP64", [0.5, -2.0]))))["output"] == (
        pytest.approx(numbers)
    )


def test_the_outputs_asked_for_come_in_the_order_asked_for(channel: grpc.Channel) -> None:
    request = batch("sentiment", text=("BYTES", [b"fine"]))
    request.outputs.add(name="scores")
    assert [*values(infer(channel, request))] == ["scores"]
    request.outputs.add(name="label")
    assert [*values(infer(channel, request))] == ["scores", "label"]


def test_the_best_scores_are_named_where_the_request_asks_for_a_classification(channel: grpc.Channel) -> None:
    model = endpoints.real_models()[1].model
    request = batch("sentiment", raw=True, text=("BYTES", [b"fine", b"dull"]))
    request.outputs.add(name="scores").parameters["classification"].int64_param = 2
    response = infer(channel, request)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 2])
    for row, prediction in zip(values(response)["scores"], model.predict(["fine", "dull"]), strict=True):
        told = [element.decode().split(":") for element in row]
        assert [(label, float(score)) for score, _, label in told] == [
            (label, pytest.approx(score, abs=1e-5)) for label, score in prediction.labels[:2]
        ]
        assert [model.labels[int(at)] for _, at, _ in told] == [label for _, _, label in told]


def test_the_id_comes_back_and_the_trailers_say_which_model_answered(channel: grpc.Channel) -> None:
    request = batch("sentiment", text=("BYTES", [b"fine"]))
    request.id, request.model_version = "call-17", "7"
    method = channel.unary_unary(f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString)
    reply, finished = method.with_call(request, timeout=10)
    assert pb.ModelInferResponse.FromString(reply).id == "call-17"
    assert endpoints.trailers(finished)["eagerly-run-id"] == "run-of-sentiment"


def test_health_and_reflection_know_the_protocol(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10).status == 1
    database = reflected.ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    assert "ModelInferRequest" in [one.name for one in database.FindFileContainingSymbol(SERVICE).message_type]


def test_open_and_typed_callers_share_a_batch(tmp_path: Path) -> None:
    gate, opened = endpoints.Gate(), grpc.insecure_channel
    models = [endpoints.loaded("sentiment", _Open(gate))]
    with endpoints.serving(models, tmp_path) as running, opened(running.address) as channel:
        gate.open.clear()
        gate.computing.clear()
        typed = channel.unary_unary("/eagerly.v1.Sentiment/Analyze")
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(infer, channel, batch("sentiment", text=("BYTES", [b"first"])))]
            gate.computing.wait(10)
            calls.append(pool.submit(infer, channel, batch("sentiment", text=("BYTES", [b"open"]))))
            calls.append(pool.submit(typed, sentiment_pb2.AnalyzeRequest(texts=["typed"]).SerializeToString()))
            running.run(_waiting(running, 2))
            gate.open.set()
            for call_ in calls:
                call_.result(10)
    assert sorted(gate.seen[-1]) == ["open", "typed"]


def test_a_draining_server_is_not_ready(tmp_path: Path) -> None:
    models = [endpoints.loaded("parity", inference.own_model("parity"))]
    running = endpoints.Endpoint(models, tmp_path, notice_s=1.0)
    running.run(running.server.start())
    with grpc.insecure_channel(running.address) as channel:
        ready, model = pb.ServerReadyRequest(), pb.ModelReadyRequest(name="parity")
        assert call(channel, "ServerReady", ready, pb.ServerReadyResponse).ready
        draining = asyncio.run_coroutine_threadsafe(running.server.drain(), running.loop)
        while call(channel, "ServerReady", ready, pb.ServerReadyResponse).ready:
            pass
        assert not call(channel, "ModelReady", model, pb.ModelReadyResponse).ready
        assert call(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
        draining.result(20)
    running.close()


def test_no_name_that_a_caller_sends_becomes_a_label(tmp_path: Path) -> None:
    with endpoints.serving([endpoints.loaded("parity", inference.own_model("parity"))], tmp_path) as running:
        with grpc.insecure_channel(running.address) as opened:
            for name in ("attack-1", "attack-2"):
                with pytest.raises(grpc.RpcError, match="there is no model"):
                    infer(opened, batch(name, input=("BYTES", [b"1"])))
            infer(opened, batch("parity", input=("BYTES", [b"1"])))
        page = metrics_page(running)
    assert "attack" not in page
    assert 'eagerly_requests_total{code="NOT_FOUND",method="ModelInfer",service="unknown"} 2' in page.replace(".0", "")
    assert 'eagerly_requests_total{code="OK",method="ModelInfer",service="parity"} 1' in page.replace(".0", "")
    assert 'eagerly_items_total{code="OK",method="ModelInfer",service="parity"} 1' in page.replace(".0", "")


def metrics_page(running: endpoints.Endpoint) -> str:
    time.sleep(0.2)  # counts follow their replies
    with urllib.request.urlopen(running.metrics, timeout=10) as page:
        return page.read().decode()


class _Open:
    """The gate's model, which says what it takes and gives as the real one does."""

    def __init__(self, gate: endpoints.Gate) -> None:
        self.predict, self.examples = gate.predict, gate.examples
        real = endpoints.real_models()[1].model
        self.schema, self.from_tensors = real.schema, real.from_tensors
        self.labels = real.labels

    def to_tensors(self, predictions: list[Any]) -> dict[str, Any]:
        best = np.array([one.labels[0][0] for one in predictions], dtype=object)
        return {"label": best, "scores": np.zeros((len(predictions), len(self.labels)), np.float32)}


async def _waiting(running: endpoints.Endpoint, count: int) -> None:
    while running.server.waiting_count < count:
        await asyncio.sleep(0.01)
