"""No small request makes the endpoint write a reply of any size."""

from collections.abc import Iterator
from typing import Any

import endpoints
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from inference import batch, infer

from benchmarks.fuzzing.verdicts import INVALID, Refusal, refusal_of
from eagerly.v1 import classifier_pb2, classifier_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from pipelines.classifier.model import Prediction
from pipelines.schema import Schema, Tensor

LABELS, IMAGES = tuple(f"label-{at}" for at in range(200)), 600


class Wide:
    """A classifier of single pixels that tells many labels apart."""

    def examples(self) -> list[Any]:
        return [np.zeros((1, 1), np.uint8)]

    def schema(self) -> Schema:
        scores = Tensor("scores", "FP32", (-1, len(LABELS)), labels=LABELS)
        return Schema((Tensor("image", "UINT8", (-1, 1, 1)),), (scores,))

    def from_tensors(self, tensors: dict[str, Any]) -> list[Any]:
        return list(tensors["image"])

    def to_tensors(self, predictions: list[Any]) -> dict[str, Any]:
        return {"scores": np.zeros((len(predictions), len(LABELS)), np.float32)}

    def predict(self, inputs: list[Any]) -> list[Any]:
        return [Prediction([(label, 0.005) for label in LABELS]) for _ in inputs]


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    models = [endpoints.real_models()[2], endpoints.loaded("classifier", Wide())]
    folder = tmp_path_factory.mktemp("metrics")
    with endpoints.serving(models, folder) as running, grpc.insecure_channel(running.address) as opened:
        yield opened


def refused(caught: Any) -> tuple[Refusal, dict[str, str]]:
    """Why a call was refused, and the metadata beside the reason."""
    told = status_pb2.Status.FromString(endpoints.trailers(caught.value)["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert told.details[-1].Unpack(info)
    return refusal_of(told), dict(info.metadata)


def too_many(path: str) -> tuple[Refusal, dict[str, str]]:
    return Refusal(INVALID, path, "TOO_MANY_ITEMS"), {"limit": "100000"}


def recommend(channel: grpc.Channel, *ks: int) -> list[Any]:
    user = endpoints.real_models()[2].model.catalogue.user_ids[0]
    queries = [recommender_pb2.RecommendQuery(user_id=user, k=k) for k in ks]
    request = recommender_pb2.RecommendRequest(queries=queries)
    return list(recommender_pb2_grpc.RecommenderStub(channel).Recommend(request, timeout=30).results)


def test_queries_that_ask_for_too_many_items_together_are_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        recommend(channel, *[1000] * 101)
    assert refused(caught) == too_many("queries")
    assert len(recommend(channel, 1000)[0].items) == 1000
    assert {len(result.items) for result in recommend(channel, *[10] * 1000)} == {10}


def test_a_k_that_no_catalogue_has_is_its_querys_own_mistake(channel: grpc.Channel) -> None:
    results = recommend(channel, 5, 2**31 - 1, 100_001, -(2**31))
    assert [len(result.items) for result in results] == [5, 0, 0, 0]
    expected = [Refusal(INVALID, f"queries[{at}].k", "OUT_OF_RANGE") for at in (1, 2, 3)]
    assert [refusal_of(result.status) for result in results[1:]] == expected


def test_tensors_of_as_many_items_for_each_query_as_for_the_longest_are_refused_too(channel: grpc.Channel) -> None:
    user = endpoints.real_models()[2].model.catalogue.user_ids[0].encode()
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, batch("recommender", user_id=("BYTES", [user] * 200), k=("INT64", [1] * 199 + [1000])))
    assert refused(caught) == too_many("inputs")
    infer(channel, batch("recommender", user_id=("BYTES", [user] * 100), k=("INT64", [1] * 99 + [1000])))


def test_images_that_ask_for_too_many_labels_together_are_refused(channel: grpc.Channel) -> None:
    image = classifier_pb2.Image(raw=classifier_pb2.RawImage(data=b"0", shape=[1, 1]))
    stub = classifier_pb2_grpc.ClassifierStub(channel)

    def labels(count: int, top_k: int) -> int:
        results = stub.Classify(classifier_pb2.ClassifyRequest(images=[image] * count, top_k=top_k), timeout=30).results
        return len(results[-1].labels)

    with pytest.raises(grpc.RpcError) as caught:
        labels(IMAGES, 2**31 - 1)
    assert refused(caught) == too_many("images")
    assert (labels(IMAGES, 0), labels(IMAGES, 100), labels(500, 2**31 - 1)) == (3, 100, 200)


def test_scores_of_which_too_many_would_be_named_are_refused(channel: grpc.Channel) -> None:
    request = batch("classifier", raw=True, image=("UINT8", np.zeros((IMAGES, 1, 1), np.uint8)))
    request.outputs.add(name="scores").parameters["classification"].int64_param = 2**62
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request)
    assert refused(caught) == too_many("outputs[0].parameters[classification]")
    request.outputs[0].parameters["classification"].int64_param = 5
    assert list(infer(channel, request).outputs[0].shape) == [IMAGES, 5]
