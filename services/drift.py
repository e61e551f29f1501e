"""How far what a model is asked and says has moved from its validation split: PSI and KS of each feature.

A sample of the computed batches is counted into the cells of the model's reference, on a thread of its own that takes
at most a hundredth of a core, once the callers have their replies. No example is kept.
"""

import asyncio
import logging
import time
from queue import SimpleQueue
from typing import Any

import numpy as np

from pipelines import reference
from pipelines.reference import Counts, Reference
from services import metrics
from services.batches import Batch
from services.threads import Worker

log = logging.getLogger(__name__)

MOST_ITEMS = 16
"""Items of a batch that are looked at."""
PAUSE_S = 0.25
"""Shortest time between two batches that are looked at."""
SHARE = 0.01
"""Largest share of a core's time, whatever a feature costs: the more it does, the fewer batches are looked at."""
PUBLISH_S = 2.0
LEAST_ITEMS = 500
"""Items that must have been counted before a feature has gauges."""
WINDOW_S, WINDOW_ITEMS = 300.0, 2_000
"""A window ends when it is this old and holds this many items; the gauges speak of it and of the one before."""
GONE = -1.0
"""The value of a gauge that has nothing to say; metrics.py leaves it out."""


class Sketch:
    """Counts of a feature's values in this window and the one before; as large as the reference, whatever comes."""

    def __init__(self, features: Reference, began: float) -> None:
        """Starts empty, on a clock of the caller's, in seconds."""
        self._features = features.features
        self._began = began
        self._items = 0
        self._before: dict[str, Counts] = {}
        self._now = self._empty()

    def add(self, values: reference.Values, now: float) -> None:
        """Counts values, the feature's by name; those that the reference does not have are left out."""
        if self._items >= WINDOW_ITEMS and now - self._began >= WINDOW_S:
            self._before, self._now = self._now, self._empty()
            self._items, self._began = 0, now
        self._items += max(map(len, values.values()), default=0)
        for name, seen in values.items():
            if name in self._now:
                self._now[name] += self._features[name].count(seen)

    def distances(self) -> dict[str, tuple[float, float | None]]:
        """Gives PSI and KS by feature, of those with enough items; KS is None where values have no order."""
        found: dict[str, tuple[float, float | None]] = {}
        for name, counts_M in self._now.items():
            counts_M = counts_M + self._before.get(name, 0)
            if counts_M.sum() >= LEAST_ITEMS:
                expected = self._features[name]
                found[name] = expected.psi(counts_M), None if expected.names else expected.ks(counts_M)
        return found

    def _empty(self) -> dict[str, Counts]:
        return {name: np.zeros(len(one.counts), np.int64) for name, one in self._features.items()}


class Drift:
    """Watches one generation of a model; all methods are for the event loop's thread."""

    def __init__(self, name: str, model: Any, features: Reference, figures: metrics.Metrics) -> None:
        """Starts the thread; must be called on the running event loop."""
        self._name, self._model, self._metrics = name, model, figures
        self._loop = asyncio.get_running_loop()
        self._sketch = Sketch(features, time.monotonic())
        self._gauges: dict[tuple[str, str], metrics.Value] = {}
        self._queue: SimpleQueue[tuple[list[Any], list[Any]] | None] = SimpleQueue()
        self._next_s = 0.0  # on the clock of time.monotonic(); infinite while the thread is at work
        self._thread = Worker(self._work, f"drift-{name}")

    def offer(self, batch: Batch) -> None:
        """Lets the thread look at a batch that has been delivered, if it is time for another."""
        if batch.started >= self._next_s and batch.failure is None and batch.calls:
            self._next_s = float("inf")
            self._queue.put((batch.inputs[:MOST_ITEMS], batch.results[:MOST_ITEMS]))

    async def close(self) -> None:
        """Ends the thread and takes the gauges away."""
        self._next_s = float("inf")
        self._queue.put(None)
        await self._thread.ended()
        self._clear()

    def _work(self) -> None:
        """Looks at a sample after the other until close(); a feature that fails ends it and the gauges, no more."""
        published_s = 0.0
        while (sample := self._queue.get()) is not None:
            began_s = time.thread_time()
            try:
                self._sketch.add(reference.observe(self._model, *sample), time.monotonic())
            except Exception:
                log.exception("the features of %s failed; its drift is watched no more", self._name)
                self._loop.call_soon_threadsafe(self._clear)
                return
            sample = None  # lets go of the callers' inputs
            if time.monotonic() - published_s >= PUBLISH_S:
                published_s = time.monotonic()
                self._loop.call_soon_threadsafe(self._publish, self._sketch.distances())
            busy_s = time.thread_time() - began_s
            self._next_s = time.monotonic() + max(PAUSE_S, busy_s / SHARE)

    def _publish(self, distances: dict[str, tuple[float, float | None]]) -> None:
        for feature, (psi, ks) in distances.items():
            self._gauge(metrics.DRIFT_PSI, feature).set(psi)
            if ks is not None:
                self._gauge(metrics.DRIFT_KS, feature).set(ks)

    def _clear(self) -> None:
        for gauge in self._gauges.values():
            gauge.set(GONE)

    def _gauge(self, metric: metrics.Metric, feature: str) -> metrics.Value:
        key = (metric.name, feature)
        if key not in self._gauges:
            self._gauges[key] = self._metrics.value(metric, self._name, feature)
        return self._gauges[key]
