"""A model that is too unsure says so, and lists its labels all the same."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest

from eagerly.client import CallError, Client, Raw
from eagerly.v1 import classifier_pb2, classifier_pb2_grpc, sentiment_pb2, sentiment_pb2_grpc
from pipelines.sentiment.model import Prediction
from services.options import Options

SCORES = {"sure": 0.9, "torn": 0.55, "odd": float("nan")}


class Torn:
    """A model of sentiment that is as sure of a text as its word says."""

    def examples(self) -> list[str]:
        return ["sure", "torn"]

    def predict(self, texts: list[str]) -> list[Any]:
        return [
            Prediction([("positive", SCORES[text]), ("negative", 1 - SCORES[text])])
            if text in SCORES
            else ValueError("unheard of")
            for text in texts
        ]


@pytest.fixture(params=[0.0, 0.6])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[endpoints.Endpoint]:
    models = [endpoints.loaded("sentiment", Torn()), endpoints.loaded("classifier", endpoints.classifier())]
    with endpoints.serving(models, tmp_path, abstain_below=request.param) as found:
        yield found


def abstains(endpoint: endpoints.Endpoint, **asked: float) -> list[bool]:
    """Which of a sure, a torn and a bad text a call abstains from."""
    with grpc.insecure_channel(endpoint.address) as channel:
        request = sentiment_pb2.AnalyzeRequest(texts=["sure", "torn", "bad"], **asked)
        reply = sentiment_pb2_grpc.SentimentStub(channel).Analyze(request)
    assert [len(result.labels) for result in reply.results] == [2, 2, 0]
    return [result.abstained for result in reply.results]


def counted(endpoint: endpoints.Endpoint) -> str:
    """The lines of the counter."""
    text = urllib.request.urlopen(endpoint.metrics).read().decode()
    return "\n".join(line for line in text.splitlines() if line.startswith("eagerly_abstained_total"))


@pytest.mark.parametrize("endpoint", [0.6], indirect=True)
def test_the_endpoint_abstains_below_its_flag_and_a_call_may_ask_another(endpoint: endpoints.Endpoint) -> None:
    assert abstains(endpoint) == [False, True, False]
    assert abstains(endpoint, min_confidence=0.95) == [True, True, False]
    assert abstains(endpoint, min_confidence=0.0) == [False, False, False]
    assert 'eagerly_abstained_total{service="sentiment"} 3.0' in counted(endpoint)


@pytest.mark.parametrize("endpoint", [0.0], indirect=True)
def test_without_a_flag_only_a_call_that_asks_is_abstained_from(endpoint: endpoints.Endpoint) -> None:
    assert abstains(endpoint) == [False, False, False]
    assert abstains(endpoint, min_confidence=0.6) == [False, True, False]


def test_an_image_is_abstained_from_by_its_best_label(endpoint: endpoints.Endpoint) -> None:
    image = classifier_pb2.Image(raw=classifier_pb2.RawImage(data=bytes(784), shape=[28, 28]))
    request = classifier_pb2.ClassifyRequest(images=[image], top_k=1, min_confidence=0.99)
    with grpc.insecure_channel(endpoint.address) as channel:
        (result,) = classifier_pb2_grpc.ClassifierStub(channel).Classify(request).results
    assert result.abstained and len(result.labels) == 1


@pytest.mark.parametrize("endpoint", [0.0], indirect=True)
def test_a_score_that_is_no_number_is_no_confidence(endpoint: endpoints.Endpoint) -> None:
    with Client(endpoint.address) as client:
        assert client.analyze(["odd"], min_confidence=0.6)[0].abstained
        assert not client.analyze(["odd"])[0].abstained


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_least_confidence_out_of_range_is_an_invalid_argument(endpoint: endpoints.Endpoint, least: float) -> None:
    with Client(endpoint.address) as client:
        for ask in (
            lambda: client.analyze(["sure"], min_confidence=least),
            lambda: client.classify([Raw(bytes(784), (28, 28))], min_confidence=least),
        ):
            with pytest.raises(CallError) as caught:
                ask()
            assert caught.value.code == "INVALID_ARGUMENT"
            assert [one.field for one in caught.value.violations] == ["min_confidence"]


def test_the_client_says_which_answers_were_too_unsure(endpoint: endpoints.Endpoint) -> None:
    with Client(endpoint.address) as client:
        answered = client.analyze(["sure", "torn"], min_confidence=0.7)
    assert [one.abstained for one in answered] == [False, True]
    assert [one.labels[0].label for one in answered] == ["positive", "positive"]


@pytest.mark.parametrize("least", [-0.1, 1.01, float("nan")])
def test_a_flag_out_of_range_is_refused(least: float) -> None:
    with pytest.raises(ValueError, match=r"--abstain-below is .*; it must be 0 to 1"):
        Options(abstain_below=least)
