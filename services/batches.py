"""A call's items while they wait for a model, and the batch that they are computed in."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from services.visits import Visit, current


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
    """One for each input of the calls, in order; empty when the model failed."""
    inputs: list[Any] = field(default_factory=list)
    """The items of the calls, in order."""
    failure: BaseException | None = None
    """What the model raised."""
    span: Any = None
    """The batch's span, once a traced call of it has ended."""

    @property
    def size(self) -> int:
        """How many items were computed together."""
        return len(self.inputs)
