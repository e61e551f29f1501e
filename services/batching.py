"""Shares the model's time among calls: whatever waits when the model is free becomes one batch.

The model runs on a thread of its own, so that the event loop stays free to read and answer calls; each batch costs the
loop one wake-up, however many calls it answers. Where it pays, the thread waits a moment for calls that are about to
come, as gathering.py says. Batches that take a few milliseconds are computed by the loop itself, as inline.py says.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from services import errors
from services.batches import LONGEST_S, Batch, Call, answers, failed
from services.gathering import Gathering
from services.inline import Inline, Near
from services.threads import Worker

SURPRISE = 2.0
"""How many times faster than ever before the model may be without a call being refused that it could have answered."""
DOUBT = 0.9
"""What a refusal leaves of the time that work is taken to need: soon a call gets through, and shows what it does."""


class Batcher:
    """Owns a model's thread and the bounded queue before it; all methods are for the event loop's thread."""

    def __init__(
        self,
        predict: Callable[[list[Any]], list[Any]],
        *,
        name: str,
        max_batch: int = 64,
        max_waiting: int = 4096,
        inline: Inline | None = None,
    ) -> None:
        """Starts the thread; must be called on the running event loop.

        predict: takes inputs, returns as many predictions or exceptions; called on the thread, and with `inline` also
        on the loop, never on both at once. max_batch: most items computed together. max_waiting: most items that wait.
        """
        self._predict, self._inline = predict, inline
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self.observe: Callable[[Batch], None] | None = None
        """Is told of each batch, on the event loop."""
        self.is_threaded = False
        """Whether all is left to the thread, even what the loop might compute."""
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._held: Call | None = None
        self._gathering = Gathering()
        self._handed_count = 0  # calls that the thread has, until their batch is delivered
        self._near, self._seen_count, self._seen_s, self._idle_s = Near(), 0, 0.0, 0.0
        self._refused_count = 0
        self._context = contextvars.Context()
        self._open = True
        # Counters of items need no lock: each is written by one thread only, or by whichever of loop and thread
        # computes, which never both do. Cancelled items stop waiting at once: gone counts all of them that have not
        # been delivered, dropped those that were found cancelled when their batch was begun.
        self._submitted_count = self._gone_count = 0
        self._taken_count = self._dropped_count = 0
        self._quickest_s, self._least_item_s, self._item_s = 0.0, 0.0, 0.001
        self._trust = 1 / SURPRISE  # loop and thread write it; that a write may be lost does no harm
        self._thread = Worker(self._work, f"model-{name}")

    @property
    def waiting_count(self) -> int:
        """Items in the queue whose callers still wait, not counting those being computed."""
        gone = self._gone_count - self._dropped_count
        return max(0, self._submitted_count - self._taken_count - gone)

    async def submit(self, inputs: list[Any], deadline: float = float("inf")) -> list[Any]:
        """Waits for the predictions of one call's inputs.

        A caller that is cancelled leaves the queue. Raises Busy when the queue is full, TooLate when less time is left
        than the work before and in this call takes at the least, Unavailable after close(), and Failure when the model
        raises.
        """
        if not self._open:
            raise errors.Unavailable("the endpoint is shutting down")
        waiting = self.waiting_count
        ahead = waiting + len(inputs)
        if ahead > self._max_waiting:
            self._refused_count += 1
            raise errors.Busy(retry_after_s=max(0.01, waiting * self._item_s))
        now = time.monotonic()
        if now + self._least_s(ahead) >= deadline:
            self._refused_count += 1
            if not waiting and now < deadline:
                self._trust *= DOUBT
            raise errors.TooLate("the time left is less than the work needs")
        call = Call(inputs, self._loop.create_future(), deadline, now)
        self._submitted_count += call.count
        self._place(call)
        try:
            return await call.answer
        except asyncio.CancelledError:
            if call.answer.cancelled():
                self._gone_count += call.count
                call.inputs = []
            raise

    async def close(self) -> None:
        """Takes no more calls, and returns when those that wait are answered and the thread has ended."""
        if self._open:
            self._open = False
            self._hand_over()
            self._queue.put(None)
        await self._thread.ended()

    def take_refused(self) -> int:
        """Says how many calls were refused since last asked because time or room was too short."""
        count, self._refused_count = self._refused_count, 0
        return count

    def take_idle(self) -> float:
        """Says for how long the event loop computed since last asked only to wait for more calls; in seconds."""
        idle_s, self._idle_s = self._idle_s, 0.0
        return idle_s

    def check(self) -> None:
        """Raises RuntimeError when the model's thread has died, which only a mistake of ours can cause."""
        if not self._thread.is_alive():
            raise RuntimeError(f"thread {self._thread.name} has died")

    def _place(self, call: Call) -> None:
        """Puts a call where it is to be computed: on the loop if that may be, and nothing is left to the thread."""
        inline = self._inline
        if inline is not None and not self.is_threaded:
            call.weight = inline.weigh(call.inputs)
            if call.weight and not self._handed_count and inline.takes(call.weight):
                self._near.add(call)
                if len(self._near.calls) == 1:
                    self._loop.call_soon(self._look, context=self._context)
                return
        self._handed_count += 1
        self._queue.put(call)

    def _hand_over(self) -> None:
        """Leaves the loop's calls to the thread."""
        near, self._near, self._seen_count = self._near, Near(), 0
        self._handed_count += len(near.calls)
        for call in near.calls:
            self._queue.put(call)

    def _look(self) -> None:
        """Computes the loop's calls if it is time to, or looks again in the next turn."""
        near, inline = self._near, self._inline
        if not near.calls:
            return
        assert inline is not None
        if self._handed_count or not inline.takes(near.weight):
            self._hand_over()
            return
        if near.count < self._max_batch and inline.waits(near, time.monotonic()):
            self._wait(len(near.calls))
            return
        self._near, self._seen_count = Near(), 0
        batch = Batch()
        for call in near.calls:
            self._admit(call, batch)
        try:
            self._compute(batch)
        finally:
            self._deliver(batch)

    def _wait(self, call_count: int) -> None:
        """Looks again in the next turn; a turn that brought no call was spent on waiting alone."""
        cpu_s = time.thread_time()
        if call_count == self._seen_count:
            self._idle_s += cpu_s - self._seen_s
        self._seen_count, self._seen_s = call_count, cpu_s
        self._loop.call_soon(self._look, context=self._context)

    def _work(self) -> None:
        """Computes batch after batch until close()."""
        while (batch := self._take()) is not None:
            try:
                self._compute(batch)
                if batch.failure is None:
                    self._gathering.computed(len(batch.calls), batch.size, batch.compute_s)
            finally:
                self._loop.call_soon_threadsafe(self._deliver, batch)

    def _take(self) -> Batch | None:
        """Waits for a call and takes with it what else waits, up to max_batch items; None at the end."""
        call = self._held or self._queue.get()
        self._held = None
        self._gathering.begins()
        batch = Batch()
        while call is not None:
            batch.taken_count += 1
            self._admit(call, batch)
            try:
                call = self._next(batch)
            except Empty:
                return batch
            if call is not None and batch.inputs and batch.size + call.count > self._max_batch:
                self._held = call
                return batch
        if batch.taken_count:
            self._queue.put(None)
            return batch
        return None

    def _next(self, batch: Batch) -> Call | None:
        """Takes one more call, for which it waits if that pays; raises Empty when there is none."""
        try:
            return self._queue.get_nowait()
        except Empty:
            deadlines = (call.deadline for call in batch.calls)
            patience_s = self._gathering.patience_s(len(batch.calls), deadlines)
            if not patience_s or batch.size >= self._max_batch:
                raise
            return self._queue.get(timeout=patience_s)

    def _admit(self, call: Call, batch: Batch) -> None:
        """Adds a call to the batch unless its caller is gone or its time is up."""
        self._taken_count += call.count
        inputs = call.inputs  # read before cancelled(): a caller that goes from now on takes them from the call only
        if call.answer.cancelled():
            self._dropped_count += call.count
        elif time.monotonic() + self._least_s(call.count) >= call.deadline:
            batch.late.append(call)
        else:
            batch.calls.append(call)
            batch.inputs += inputs

    def _least_s(self, count: int) -> float:
        """Gives the least time that so many items are taken to need."""
        return max(self._quickest_s, count * self._least_item_s) * self._trust

    def _compute(self, batch: Batch) -> None:
        """Runs the model; what it raises fails the calls that are to blame, and nothing else."""
        inputs = batch.inputs
        if not inputs:
            return
        before_s = time.thread_time()
        batch.started = time.monotonic()
        try:
            batch.results = answers(self._predict, batch.calls, inputs, self._max_batch, batch.started + LONGEST_S)
            if all(call.failure is not None for call in batch.calls):
                batch.failure = batch.calls[0].failure
        except BaseException as error:
            batch.failure = error
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            batch.compute_s = time.monotonic() - batch.started
            batch.cpu_s = time.thread_time() - before_s
        self._learn(batch)

    def _learn(self, batch: Batch) -> None:
        """Notes how quick the model can be; a batch with errors among its results did less than the work."""
        self._item_s = item_s = batch.compute_s / batch.size
        whole = batch.failure is None and not any(isinstance(result, Exception) for result in batch.results)
        if self._inline is not None and all(call.weight for call in batch.calls):
            self._inline.learn(sum(call.weight for call in batch.calls), batch.cpu_s, whole)
        if whole:
            if self._trust < 1 / SURPRISE:
                self._regain(batch)
            self._quickest_s = min(self._quickest_s or batch.compute_s, batch.compute_s)
            self._least_item_s = min(self._least_item_s or item_s, item_s)

    def _regain(self, batch: Batch) -> None:
        """Trusts again in what is known once a call was computed that it had been held against."""
        known_s = [max(self._quickest_s, call.count * self._least_item_s) / SURPRISE for call in batch.calls]
        if any(call.deadline <= batch.started + least_s for call, least_s in zip(batch.calls, known_s, strict=True)):
            self._trust = 1 / SURPRISE

    def _deliver(self, batch: Batch) -> None:
        """Answers a batch's calls, on the event loop."""
        start = 0
        for call in batch.calls:
            end = start + call.count
            if call.visit is not None:
                call.visit.computed(call.submitted, batch)
            if not call.answer.done():
                failure = call.failure or batch.failure
                if failure is None:
                    call.answer.set_result(batch.results[start:end])
                else:
                    call.answer.set_exception(failed(failure, call.visit))
            elif call.answer.cancelled():
                self._gone_count -= call.count
            start = end
        for call in batch.late:
            if not call.answer.done():
                self._refused_count += 1
                call.answer.set_exception(errors.TooLate("no time was left before compute"))
            elif call.answer.cancelled():
                self._gone_count -= call.count
        self._handed_count -= batch.taken_count
        if self.observe and (batch.calls or batch.late):
            self._loop.call_soon(self.observe, batch)  # after the calls, which are on the loop already
