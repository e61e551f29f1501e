"""A typed client of the services, with a deadline and retries on every call; needs grpcio and protobuf alone.

with Client("127.0.0.1:9000") as client:
    for result in client.analyze(["What a film!"]):
        print(result.error or result.labels[0])
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2
from eagerly.v1.classifier_pb2_grpc import ClassifierStub
from eagerly.v1.recommender_pb2_grpc import RecommenderStub
from eagerly.v1.sentiment_pb2_grpc import SentimentStub

SERVICE_CONFIG: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{}],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ]
}
"""Retries what a replica that goes away leaves unanswered; gRPC makes at most 5 attempts."""


@dataclass(frozen=True)
class Violation:
    """What is wrong with one field of a request."""

    field: str
    """The field's path, such as `images[0].raw.shape[1]`."""
    description: str
    """What is wrong, and what is allowed."""


class CallError(Exception):
    """Says why a call, or one item of it, was not answered."""

    def __init__(self, code: str, message: str, violations: tuple[Violation, ...] = ()) -> None:
        """Takes gRPC's name of the code, such as INVALID_ARGUMENT."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.violations = violations


@dataclass(frozen=True)
class Provenance:
    """Which model answered."""

    model: str
    version: str
    run_id: str
    digest: str
    """SHA-256 of the artifact's manifest."""


@dataclass(frozen=True)
class Label:
    """A label and how sure the model is of it."""

    label: str
    score: float
    """Probability, 0 to 1."""


@dataclass(frozen=True)
class Labels:
    """What a model says of one image or text."""

    labels: tuple[Label, ...]
    """Best first; empty when there is an error."""
    error: CallError | None
    """What was wrong with this item alone."""
    provenance: Provenance


@dataclass(frozen=True)
class Item:
    """An item and how well it suits."""

    item_id: str
    score: float
    title: str


@dataclass(frozen=True)
class Items:
    """What a model recommends for one query."""

    items: tuple[Item, ...]
    """Best first; empty when there is an error."""
    error: CallError | None
    """What was wrong with this query alone."""
    provenance: Provenance


@dataclass(frozen=True)
class Raw:
    """An image as pixels, one unsigned byte per colour value."""

    data: bytes
    """Row-major, height x width x channels."""
    shape: tuple[int, ...]
    """Height, width and, unless the image is grey, channels."""


@dataclass(frozen=True)
class Query:
    """Whom to recommend to: a known user, or anybody described by items that they like."""

    user_id: str = ""
    item_ids: tuple[str, ...] = ()
    k: int = 10


class Client:
    """Calls the services at one address; safe to share among threads."""

    def __init__(self, address: str, timeout_s: float = 10.0, wait_for_ready: bool = True) -> None:
        """Prepares a connection to host:port, which is made by the first call.

        timeout_s: deadline of each call, retries included. wait_for_ready: whether a call waits until its deadline
        for a server that does not answer, rather than giving up after a few attempts.
        """
        config = json.loads(json.dumps(SERVICE_CONFIG))
        config["methodConfig"][0]["waitForReady"] = wait_for_ready
        options = [("grpc.service_config", json.dumps(config)), ("grpc.max_receive_message_length", -1)]
        options.append(("grpc.use_local_subchannel_pool", 1))  # else clients of one address share a connection
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=options)
        self._classify = ClassifierStub(self._channel).Classify
        self._analyze = SentimentStub(self._channel).Analyze
        self._recommend = RecommenderStub(self._channel).Recommend

    def classify(self, images: Sequence[bytes | Raw], top_k: int = 3) -> list[Labels]:
        """Labels images, given as the bytes of PNG or JPEG files or as pixels; raises CallError."""
        request = classifier_pb2.ClassifyRequest(images=[_image(image) for image in images], top_k=top_k)
        response, provenance = self._call(self._classify, request)
        return [_labels(result, provenance) for result in response.results]

    def analyze(self, texts: Sequence[str]) -> list[Labels]:
        """Labels texts by how they feel; raises CallError."""
        response, provenance = self._call(self._analyze, sentiment_pb2.AnalyzeRequest(texts=texts))
        return [_labels(result, provenance) for result in response.results]

    def recommend(self, queries: Sequence[Query]) -> list[Items]:
        """Recommends items for each query; raises CallError."""
        asked = [recommender_pb2.RecommendQuery(user_id=q.user_id, item_ids=q.item_ids, k=q.k) for q in queries]
        response, provenance = self._call(self._recommend, recommender_pb2.RecommendRequest(queries=asked))
        return [
            Items(
                tuple(Item(item.item_id, item.score, item.title) for item in result.items),
                _error(result.status),
                provenance,
            )
            for result in response.results
        ]

    def healthy(self, service: str = "") -> bool:
        """Asks grpc.health.v1 whether a service such as `eagerly.v1.Classifier` serves; empty asks for all.

        Raises CallError when there is no such service or no answer.
        """
        # HealthCheckRequest{string service = 1} and HealthCheckResponse{ServingStatus status = 1; SERVING = 1},
        # written out because their package is not among the client's dependencies.
        name = service.encode()
        check = self._channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return check(b"\x0a" + bytes([len(name)]) + name, timeout=self._timeout_s) == b"\x08\x01"
        except grpc.RpcError as error:
            raise _call_error(error) from None

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the connection."""
        self.close()

    def _call(self, method: Callable[..., Any], request: Message) -> tuple[Any, Provenance]:
        """Makes a call within the deadline; returns the response and who answered."""
        try:
            response, call = method.with_call(request, timeout=self._timeout_s)  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            raise _call_error(error) from None
        trailers = dict(call.trailing_metadata())
        names = ("eagerly-model", "eagerly-model-version", "eagerly-run-id", "eagerly-model-digest")
        return response, Provenance(*(trailers.get(name, "") for name in names))


def _image(image: bytes | Raw) -> classifier_pb2.Image:
    if isinstance(image, bytes):
        return classifier_pb2.Image(encoded=image)
    return classifier_pb2.Image(raw=classifier_pb2.RawImage(data=image.data, shape=image.shape))


def _labels(result: classifier_pb2.ClassifyResult | sentiment_pb2.AnalyzeResult, provenance: Provenance) -> Labels:
    labels = tuple(Label(label.label, label.score) for label in result.labels)
    return Labels(labels, _error(result.status), provenance)


def _error(status: status_pb2.Status) -> CallError | None:
    """Reads an item's status; None when it is OK."""
    if not status.code:
        return None
    return CallError(code_pb2.Code.Name(status.code), status.message, _violations(status))


def _call_error(error: Any) -> CallError:
    """Reads what ended a call, with the details that the server added."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    violations = _violations(status_pb2.Status.FromString(details)) if details else ()
    return CallError(error.code().name, error.details() or "", violations)


def _violations(status: status_pb2.Status) -> tuple[Violation, ...]:
    bad = error_details_pb2.BadRequest()
    return tuple(
        Violation(violation.field, violation.description)
        for detail in status.details
        if detail.Unpack(bad)
        for violation in bad.field_violations
    )
