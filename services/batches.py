"""A call's items while they wait for a model, and the batch that they are computed in."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from services import errors
from services.visits import Visit, current

log = logging.getLogger(__name__)

LONGEST_S = 2.0
"""For how long the call is looked for that breaks the model: others wait meanwhile."""


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


def answers(
    predict: Callable[[list[Any]], list[Any]], calls: list[Call], inputs: list[Any], most: int, until: float
) -> list[Any]:
    """Computes the inputs of calls, at most so many together, and halves what fails until the call to blame is alone.

    So no caller's input fails the calls of others, unless it takes beyond `until`, on the clock of time.monotonic(), to
    find out whose it is: then all fail that were not answered. Returns a result for each input, an exception for those
    of a call that failed, which is told why. Raises what is no fault of inputs.
    """
    try:
        results = _in_parts(predict, calls, inputs, most)
        assert len(results) == len(inputs), f"{len(results)} predictions of {len(inputs)} inputs"
        return results
    except (errors.ServiceError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a library too
        if len(calls) == 1:
            return _fail(calls[0], error)
        cause = error
    middle, results = len(calls) // 2, list[Any]()
    count = sum(call.count for call in calls[:middle])
    for half, its in ((calls[:middle], inputs[:count]), (calls[middle:], inputs[count:])):
        if time.monotonic() < until:
            results += _awaited(predict, half, its, most, until)
        else:
            results += [result for call in half for result in _fail(call, cause)]
    return results


def _in_parts(predict: Callable[[list[Any]], list[Any]], calls: list[Call], inputs: list[Any], most: int) -> list[Any]:
    """Computes at most so many inputs at a time, and no more of them once nobody waits for any."""
    results: list[Any] = []
    for start in range(0, len(inputs), most):
        if start and all(_is_over(call) for call in calls):
            return [result for call in calls for result in _fail(call, _late())]
        results += predict(inputs[start : start + most])
    return results


def _awaited(
    predict: Callable[[list[Any]], list[Any]], calls: list[Call], inputs: list[Any], most: int, until: float
) -> list[Any]:
    """Computes the calls whose callers still wait; the others were too late."""
    start, results, kept, wanted = 0, dict[Call, list[Any]](), list[Call](), list[Any]()
    for call in calls:
        if _is_over(call):
            results[call] = _fail(call, _late())
        else:
            kept.append(call)
            wanted += inputs[start : start + call.count]
        start += call.count
    found = iter(answers(predict, kept, wanted, most, until) if kept else ())
    return [result for call in calls for result in results.get(call) or islice(found, call.count)]


def _is_over(call: Call) -> bool:
    """Whether a caller has gone, or has no time left."""
    return call.answer.done() or time.monotonic() >= call.deadline


def _late() -> errors.TooLate:
    return errors.TooLate("no time was left for the rest of the work")


def _fail(call: Call, cause: BaseException) -> list[Any]:
    """Tells a call why it failed, and gives what stands in place of its results."""
    call.failure = cause
    return [RuntimeError(type(cause).__name__)] * call.count


def failed(cause: BaseException, visit: Visit | None) -> errors.ServiceError:
    """Logs the cause under a request id, and the caller sees the id alone; what is fit to be shown passes as it is."""
    if isinstance(cause, errors.ServiceError):
        return cause
    failure = errors.Failure(visit and visit.request_id)
    log.error("request %s failed in the model", failure.request_id, exc_info=cause)
    return failure
