"""What callers ask and are told, apart from how it travels; needs grpcio and protobuf alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from google.rpc import code_pb2, error_details_pb2, status_pb2

from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2

CLASSIFY = "eagerly.v1.Classifier/Classify"
ANALYZE = "eagerly.v1.Sentiment/Analyze"
RECOMMEND = "eagerly.v1.Recommender/Recommend"
"""The RPCs, as traces name them."""
HEALTH, SERVING = "/grpc.health.v1.Health/Check", b"\x08\x01"
"""The RPC of health, and the reply HealthCheckResponse{ServingStatus status = 1; SERVING = 1}, written out because they
are in a package that is not among the client's dependencies."""
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Violation:
    """What is wrong with one field of a request."""

    field: str
    """The field's path, such as `images[0].raw.shape[1]`."""
    description: str
    """What is wrong, and what is allowed."""


class CallError(Exception):
    """Says why a call, or one item of it, was not answered."""

    def __init__(
        self,
        code: str,
        message: str,
        violations: tuple[Violation, ...] = (),
        reason: str = "",
        metadata: Mapping[str, str] = NOTHING,
        retry_after_s: float | None = None,
    ) -> None:
        """Takes gRPC's name of the code, such as INVALID_ARGUMENT, and what the server's details say.

        reason: the stable word of docs/errors.md. metadata: what goes with it, such as the `limit` that was passed.
        retry_after_s: seconds after which the same call may be answered; None where no time is known to help.
        """
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.violations = violations
        self.reason = reason
        self.metadata = metadata
        self.retry_after_s = retry_after_s


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
    abstained: bool = False
    """Whether the model is less sure of the best label than was asked for."""


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


def health_request(service: str) -> bytes:
    """Writes HealthCheckRequest{string service = 1} for a name of less than 128 bytes."""
    name = service.encode()
    return b"\x0a" + bytes([len(name)]) + name


def classify_request(
    images: Sequence[bytes | Raw], top_k: int, min_confidence: float | None
) -> classifier_pb2.ClassifyRequest:
    """Asks for labels of images."""
    shown = [_image(image) for image in images]
    return classifier_pb2.ClassifyRequest(images=shown, top_k=top_k, min_confidence=min_confidence)


def recommend_request(queries: Sequence[Query]) -> recommender_pb2.RecommendRequest:
    """Asks for items."""
    asked = [recommender_pb2.RecommendQuery(user_id=q.user_id, item_ids=q.item_ids, k=q.k) for q in queries]
    return recommender_pb2.RecommendRequest(queries=asked)


def labels(
    response: classifier_pb2.ClassifyResponse | sentiment_pb2.AnalyzeResponse, provenance: Provenance
) -> list[Labels]:
    """Reads what was said of each image or text."""
    return [
        Labels(
            tuple(Label(one.label, one.score) for one in result.labels),
            _error(result.status),
            provenance,
            result.abstained,
        )
        for result in response.results
    ]


def items(response: recommender_pb2.RecommendResponse, provenance: Provenance) -> list[Items]:
    """Reads what was recommended for each query."""
    return [
        Items(tuple(Item(one.item_id, one.score, one.title) for one in result.items), _error(result.status), provenance)
        for result in response.results
    ]


def provenance(trailers: Iterable[Any]) -> Provenance:
    """Reads who answered from a reply's trailing metadata."""
    found = dict(trailers)
    names = ("eagerly-model", "eagerly-model-version", "eagerly-run-id", "eagerly-model-digest")
    return Provenance(*(found.get(name, "") for name in names))


def call_error(error: Any) -> CallError:
    """Reads what ended a call, with the details that the server added."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    found = status_pb2.Status.FromString(details) if details else status_pb2.Status()
    return _refusal(error.code().name, error.details() or "", found)


def _image(image: bytes | Raw) -> classifier_pb2.Image:
    if isinstance(image, bytes):
        return classifier_pb2.Image(encoded=image)
    return classifier_pb2.Image(raw=classifier_pb2.RawImage(data=image.data, shape=image.shape))


def _error(status: status_pb2.Status) -> CallError | None:
    """Reads an item's status; None when it is OK."""
    if not status.code:
        return None
    return _refusal(code_pb2.Code.Name(status.code), status.message, status)


def _refusal(code: str, message: str, status: status_pb2.Status) -> CallError:
    """Reads the details that docs/errors.md lists; those that are missing leave their defaults."""
    bad, info, retry = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for kind in (bad, info, retry):
            detail.Unpack(kind)
    violations = tuple(Violation(one.field, one.description) for one in bad.field_violations)
    delay_s = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    return CallError(code, message, violations, info.reason, dict(info.metadata), delay_s)
