"""A call's items while they wait for a model, and the batch that they are computed in."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services import errors
from services.visits import Visit, current

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Call:
    """The items of one call, waiting for their predictions."""

    inputs: list[Any]
    answer: "asyncio.Future[list[Any]]"
    deadline: float
    """When the caller gives up, on the clock of time.monotonic(); infinite when never."""
    submitted: float
    """When the call began to wait, on the same clock."""
    visit: Visit | None = field(default_factory=current.get)
    """What is noted of the call for the access log and traces."""
    weight: int = 0
    """What its items weigh, as inline.py says; 0 when one of them may take any time, or nobody asked."""
    failure: BaseException | None = None
    """What the model raised for this call alone."""
    count: int = field(init=False)
    """How many items; stays when a cancelled call lets go of them."""

    def __post_init__(self) -> None:
        """Counts the items."""
        self.count = len(self.inputs)


@dataclass
class Batch:
    """Calls that were computed together."""

    calls: list[Call] = field(default_factory=list)
    late: list[Call] = field(default_factory=list)
    """Calls that were taken from the queue with no time left for the work, and were not computed."""
    taken_count: int = 0
    """Calls that were taken from the thread's queue, those of callers who had gone included."""
    started: float = 0.0
    """When the computation began, on the clock of time.monotonic()."""
    compute_s: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the thread that computed it."""
    results: list[Any] = field(default_factory=list)
    """One for each input of the calls, in order; an exception where the model failed."""
    inputs: list[Any] = field(default_factory=list)
    """The items of the calls, in order."""
    failure: BaseException | None = None
    """What the model raised for all of the calls."""
    span: Any = None
    """The batch's span, once a traced call of it has ended."""

    @property
    def size(self) -> int:
        """How many items were computed together."""
        return len(self.inputs)


def answers(predict: Callable[[list[Any]], list[Any]], calls: list[Call], inputs: list[Any], most: int) -> list[Any]:
    """Computes the inputs of calls, at most so many together, and halves what fails until the call to blame is alone.

    So no caller's input fails the calls of others. Returns a result for each input, an exception for those of a call
    that failed, which is told why. Raises what is no fault of inputs.
    """
    try:
        results: list[Any] = []
        for start in range(0, len(inputs), most):
            results += predict(inputs[start : start + most])
        assert len(results) == len(inputs), f"{len(results)} predictions of {len(inputs)} inputs"
        return results
    except (errors.ServiceError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a library too
        if len(calls) == 1:
            calls[0].failure = error
            return [RuntimeError(type(error).__name__)] * len(inputs)
    middle = len(calls) // 2
    count = sum(call.count for call in calls[:middle])
    before = answers(predict, calls[:middle], inputs[:count], most)
    return before + answers(predict, calls[middle:], inputs[count:], most)


def failed(cause: BaseException, visit: Visit | None) -> errors.ServiceError:
    """Logs the cause under a request id, and the caller sees the id alone; what is fit to be shown passes as it is."""
    if isinstance(cause, errors.ServiceError):
        return cause
    failure = errors.Failure(visit and visit.request_id)
    log.error("request %s failed in the model", failure.request_id, exc_info=cause)
    return failure
