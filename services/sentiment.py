"""The sentiment model as a service: texts in, labels with scores out."""

from eagerly.v1 import sentiment_pb2 as pb
from pipelines.sentiment.model import Prediction
from services.errors import BadInput
from services.service import Service

MOST_CHARACTERS = 10_000


def check(request: pb.AnalyzeRequest) -> None:
    """Accepts every request: it has no field but its texts."""


def decode(text: str) -> str:
    """Takes a text as it is, unless it is blank or too long."""
    if not text.strip():
        raise BadInput("", "is empty; send at least one character that is not a space")
    if len(text) > MOST_CHARACTERS:
        raise BadInput("", f"is {len(text)} characters long; the most is {MOST_CHARACTERS}")
    return text


def encode(request: pb.AnalyzeRequest, prediction: Prediction, result: pb.AnalyzeResult) -> None:
    """Writes all labels, best first."""
    for label, score in prediction.labels:
        result.labels.add(label=label, score=score)


def blame(text: str, error: Exception) -> str:
    """Points at the text as a whole: it has no fields."""
    return ""


SERVICE = Service(
    name="sentiment",
    descriptor=pb.DESCRIPTOR.services_by_name["Sentiment"],
    request=pb.AnalyzeRequest,
    response=pb.AnalyzeResponse,
    items="texts",
    check=check,
    decode=decode,
    encode=encode,
    blame=blame,
)
