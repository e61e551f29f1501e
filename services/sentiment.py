"""The sentiment model as a service: texts in, labels with scores out."""

from eagerly.v1 import sentiment_pb2 as pb
from pipelines.sentiment.model import Prediction
from services.errors import BadInput
from services.reasons import Reason
from services.service import Service

MOST_CHARACTERS = 10_000
WEIGHT_CHARACTERS, MOST_WEIGHT = 125, 4
"""Characters by which a text takes an encoder as long again as a short one, and how often at the most it may."""


def check(request: pb.AnalyzeRequest) -> None:
    """Raises BadInput when min_confidence is out of range."""
    if not 0 <= request.min_confidence <= 1:
        problem = f"is {request.min_confidence:g}; it must be 0 to 1"
        raise BadInput("min_confidence", problem, Reason.OUT_OF_RANGE)


def decode(text: str) -> str:
    """Takes a text as it is, unless it is blank or too long."""
    if not text.strip():
        raise BadInput("", "is empty; send at least one character that is not a space", Reason.EMPTY)
    if len(text) > MOST_CHARACTERS:
        problem = f"is {len(text)} characters long; the most is {MOST_CHARACTERS}"
        raise BadInput("", problem, Reason.TOO_LONG, limit=MOST_CHARACTERS)
    return text


def encode(request: pb.AnalyzeRequest, prediction: Prediction, result: pb.AnalyzeResult) -> None:
    """Writes all labels, best first, and whether the best is too unsure."""
    if request.min_confidence > 0 and not prediction.labels[0][1] >= request.min_confidence:  # NaN is no confidence
        result.abstained = True
    add = result.labels.add
    for label, score in prediction.labels:
        one = add()  # setting fields takes half the time of naming them here
        one.label, one.score = label, score


def blame(text: str, error: Exception) -> tuple[str, Reason]:
    """Points at the text as a whole, which has no fields: a model may take less than MOST_CHARACTERS."""
    return "", Reason.TOO_LONG if text.strip() else Reason.EMPTY


def weigh(text: str) -> int:
    """Weighs a sentence or a few by their length, and nothing longer."""
    weight = 1 + len(text) // WEIGHT_CHARACTERS
    return weight if weight <= MOST_WEIGHT else 0


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
    weigh=weigh,
)
