"""Shares the model's time among calls: whatever waits when the model is free becomes one batch.

The model runs on a thread of its own, so the event loop that reads and answers calls stays free; each batch costs
the loop one wake-up, however many calls it answers.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from services import errors

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Call:
    """The items of one call, waiting for their predictions."""

    inputs: list[Any]
    answer: "asyncio.Future[list[Any]]"
    deadline: float
    """When the caller gives up, on the clock of time.monotonic(); infinite when never."""
    submitted: float = field(default_factory=time.monotonic)
    """When the call began to wait, on the same clock."""


@dataclass
class Batch:
    """Calls that were computed together."""

    calls: list[Call]
    late: list[Call]
    """Calls that were taken from the queue with no time left for the work, and were not computed."""
    started: float = 0.0
    """When the computation began, on the clock of time.monotonic()."""
    compute_s: float = 0.0
    results: list[Any] = field(default_factory=list)
    """One for each input of the calls, in order; empty when the model failed."""
    failure: Exception | None = None
    """What the model raised."""

    @property
    def size(self) -> int:
        """How many items were computed together."""
        return sum(len(call.inputs) for call in self.calls)


class Batcher:
    """Owns a model's thread and the bounded queue before it; all methods are for the event loop's thread."""

    def __init__(
        self,
        predict: Callable[[list[Any]], list[Any]],
        *,
        name: str,
        max_batch: int = 64,
        max_waiting: int = 4096,
    ) -> None:
        """Starts the thread; must be called on the running event loop.

        predict: takes inputs, returns as many predictions or exceptions; called on the thread only.
        max_batch: most items computed together. max_waiting: most items in the queue.
        """
        self._predict = predict
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self.observe: Callable[[Batch], None] | None = None
        """Is told of each batch, on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._held: Call | None = None
        self._open = True
        # Two counters, each written by one thread only, need no lock: their difference is what waits.
        self._submitted_count = 0
        self._taken_count = 0
        self._quickest_s = 0.0
        self._item_s = 0.001
        self._thread = threading.Thread(target=self._work, name=f"model-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting_count(self) -> int:
        """Items in the queue, not counting those being computed."""
        return self._submitted_count - self._taken_count

    async def submit(self, inputs: list[Any], deadline: float = float("inf")) -> list[Any]:
        """Waits for the predictions of one call's inputs.

        A caller that is cancelled leaves the queue. Raises Busy when the queue is full, TooLate when no time is left
        before compute, Unavailable after close(), and Failure when the model raises.
        """
        if not self._open:
            raise errors.Unavailable("the endpoint is shutting down")
        waiting = self.waiting_count
        if waiting + len(inputs) > self._max_waiting:
            raise errors.Busy(retry_after_s=max(0.01, waiting * self._item_s))
        call = Call(inputs, self._loop.create_future(), deadline)
        self._submitted_count += len(inputs)
        self._queue.put(call)
        return await call.answer

    async def close(self) -> None:
        """Takes no more calls, and returns when those that wait are answered and the thread has ended."""
        if self._open:
            self._open = False
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # lets the last batch's delivery, already scheduled, run

    def check(self) -> None:
        """Raises RuntimeError when the model's thread has died, which only a mistake of ours can cause."""
        if not self._thread.is_alive():
            raise RuntimeError(f"thread {self._thread.name} has died")

    def _work(self) -> None:
        """Computes batch after batch until close()."""
        while (batch := self._take()) is not None:
            if batch.calls:
                self._compute(batch)
            self._loop.call_soon_threadsafe(self._deliver, batch)

    def _take(self) -> Batch | None:
        """Waits for a call and takes with it what else waits, up to max_batch items; None at the end."""
        call = self._held or self._queue.get()
        self._held = None
        batch = Batch([], [])
        count = 0
        while call is not None:
            self._taken_count += len(call.inputs)
            count += self._admit(call, batch)
            try:
                call = self._queue.get_nowait()
            except Empty:
                return batch
            if call is not None and count and count + len(call.inputs) > self._max_batch:
                self._held = call
                return batch
        if batch.calls or batch.late:
            self._queue.put(None)
            return batch
        return None

    def _admit(self, call: Call, batch: Batch) -> int:
        """Adds a call to the batch unless its caller is gone or its time is up; returns the items added."""
        if call.answer.cancelled():
            return 0
        if time.monotonic() + self._quickest_s >= call.deadline:
            batch.late.append(call)
            return 0
        batch.calls.append(call)
        return len(call.inputs)

    def _compute(self, batch: Batch) -> None:
        """Runs the model; what it raises fails this batch's calls and nothing else."""
        inputs = [item for call in batch.calls for item in call.inputs]
        batch.started = time.monotonic()
        try:
            for start in range(0, len(inputs), self._max_batch):
                batch.results += self._predict(inputs[start : start + self._max_batch])
            assert len(batch.results) == len(inputs), f"{len(batch.results)} predictions of {len(inputs)} inputs"
        except Exception as error:
            batch.failure = error
        batch.compute_s = time.monotonic() - batch.started
        self._item_s = batch.compute_s / len(inputs)
        self._quickest_s = min(self._quickest_s or batch.compute_s, batch.compute_s)

    def _deliver(self, batch: Batch) -> None:
        """Answers a batch's calls, on the event loop."""
        start = 0
        for call in batch.calls:
            end = start + len(call.inputs)
            if not call.answer.done():
                if batch.failure is None:
                    call.answer.set_result(batch.results[start:end])
                else:
                    call.answer.set_exception(_failure(batch.failure))
            start = end
        for call in batch.late:
            if not call.answer.done():
                call.answer.set_exception(errors.TooLate("no time was left before compute"))
        if self.observe and batch.calls:
            self._loop.call_soon(self.observe, batch)  # after the calls, which are on the loop already


def _failure(cause: Exception) -> errors.Failure:
    """Logs the cause under a request id; the caller sees the id alone."""
    failure = errors.Failure()
    log.error("request %s failed in the model", failure.request_id, exc_info=cause)
    return failure
