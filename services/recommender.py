"""The recommender as a service: users, known or described by items they like, in; items out."""

from eagerly.v1 import recommender_pb2 as pb
from pipelines.recommender.model import NotFoundError, Query, Recommendation
from pipelines.recommender.tensors import UnreadableError
from services.errors import BadInput
from services.reasons import Reason
from services.service import MOST_ANSWERS, Service

MOST_ITEM_IDS = 1_000
PLAIN_ITEMS = 100
"""Items named, and items asked for, up to which queries take about as long."""
UNREADABLE = {"empty": Reason.EMPTY, "no list": Reason.INVALID_VALUE, "too many": Reason.TOO_MANY_ITEMS}


def check(request: pb.RecommendRequest) -> None:
    """Raises BadInput when the queries ask for too many items together."""
    if len(request.queries) > 1:
        count = sum(query.k for query in request.queries if 0 < query.k <= MOST_ANSWERS)  # others are refused alone
        if count > MOST_ANSWERS:
            raise _too_many("queries", count)


def decode(query: pb.RecommendQuery) -> Query:
    """Reads whom to recommend to; whether the user and the items are known is the model's to say."""
    if not 1 <= query.k <= MOST_ANSWERS:
        problem = f"is {query.k}; it must be 1 to the size of the catalogue, and at most {MOST_ANSWERS}"
        raise BadInput("k", problem, Reason.OUT_OF_RANGE)
    if not query.user_id and not query.item_ids:
        raise BadInput("user_id", "is empty; name a user, or in item_ids what the user likes", Reason.EMPTY)
    if len(query.item_ids) > MOST_ITEM_IDS:
        problem = f"holds {len(query.item_ids)}; the most is {MOST_ITEM_IDS}"
        raise BadInput("item_ids", problem, Reason.TOO_MANY_ITEMS, limit=MOST_ITEM_IDS)
    return Query(query.user_id, list(query.item_ids), query.k)


def encode(request: pb.RecommendRequest, prediction: Recommendation, result: pb.RecommendResult) -> None:
    """Writes the items, best first."""
    add = result.items.add
    for item_id, score, title in prediction.items:
        one = add()  # setting fields takes half the time of naming them here
        one.item_id, one.score, one.title = item_id, score, title


def bound(queries: list[Query]) -> None:
    """Raises BadInput when tensors, in which all queries have as many items as the longest, would hold too many."""
    count = len(queries) * max(query.k for query in queries)
    if count > MOST_ANSWERS:
        raise _too_many("inputs", count)


def blame(query: pb.RecommendQuery | Query, error: Exception) -> tuple[str, Reason]:
    """Points at k for a wrong value, else at what is unknown: an item, or the user where no items are named."""
    if isinstance(error, UnreadableError):
        return error.tensor, UNREADABLE[error.problem]
    if not isinstance(error, NotFoundError):
        return "k", Reason.OUT_OF_RANGE
    if error.item_index is None:
        return "user_id", Reason.UNKNOWN_USER
    return f"item_ids[{error.item_index}]", Reason.UNKNOWN_ITEM


def _too_many(field: str, count: int) -> BadInput:
    problem = f"ask for {count:,} items together; the most in a call is {MOST_ANSWERS:,}"
    return BadInput(field, problem, Reason.TOO_MANY_ITEMS, limit=MOST_ANSWERS)


def weigh(query: Query) -> int:
    """Weighs all queries alike that name few items and want few."""
    return int(len(query.item_ids) <= PLAIN_ITEMS and query.k <= PLAIN_ITEMS)


SERVICE = Service(
    name="recommender",
    descriptor=pb.DESCRIPTOR.services_by_name["Recommender"],
    request=pb.RecommendRequest,
    response=pb.RecommendResponse,
    items="queries",
    check=check,
    decode=decode,
    encode=encode,
    blame=blame,
    weigh=weigh,
    bound=bound,
)
