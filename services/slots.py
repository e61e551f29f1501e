"""A model's place in an endpoint: one generation of the model answers, until the next takes over between two calls."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services import metrics, paths
from services.batching import Batch, Batcher
from services.drift import Drift
from services.models import Loaded
from services.options import Options
from services.scaling import Meter

log = logging.getLogger(__name__)

OUTCOMES = ("swapped", "refused")
"""What can come of a model that is to be put in place of another."""


@dataclass(eq=False)
class Generation:
    """One model in memory with the thread that computes it; what answers a call from its beginning to its end."""

    loaded: Loaded
    batcher: Batcher
    runner: paths.Runner
    """Runs the model in the way that suits it best."""
    trailers: tuple[tuple[str, str], ...]
    """Provenance, as the trailing metadata of every reply."""
    info: metrics.Value
    """The gauge that says which model is served."""
    drift: Drift | None = None
    """Watches what the model is asked and says; None for a model without a reference."""

    async def close(self) -> None:
        """Answers what waits and ends the model's thread, and the one that watches it."""
        await self.batcher.close()
        if self.drift is not None:
            await self.drift.close()


class Slot:
    """Holds the generation that answers now; all methods are for the event loop's thread.

    A caller reads `current` and submits to it without waiting in between, so that no reply mixes two models.
    """

    def __init__(self, loaded: Loaded, options: Options, figures: metrics.Metrics) -> None:
        """Starts the model's thread; must be called on the running event loop."""
        self.name = loaded.name
        self._options = options
        self._metrics = figures
        self._queue = figures.histogram(metrics.QUEUE_SECONDS, self.name)
        self._compute = figures.histogram(metrics.COMPUTE_SECONDS, self.name)
        self._batch_size = figures.histogram(metrics.BATCH_SIZE, self.name)
        self._outcomes = {outcome: figures.value(metrics.SWAPS, self.name, outcome) for outcome in OUTCOMES}
        self._meter = Meter()
        self._swapping = asyncio.Lock()
        self.current = self._generation(loaded)

    @property
    def waiting_count(self) -> int:
        """Items waiting for the model."""
        return self.current.batcher.waiting_count

    def load(self) -> tuple[float, float]:
        """Gives the mean wait of calls in seconds, and the busy share of the model's time, since last asked."""
        return self._meter.read(self.waiting_count > 0)

    async def start(self) -> None:
        """Warms the first generation up and shows it; raises ValueError when the model refuses its own examples."""
        await self._warm_up(self.current)
        self._show(self.current, 1)

    async def swap(self, loaded: Loaded) -> None:
        """Puts another generation in place, warm, and ends the one before when the calls it has are answered.

        Raises ValueError, and changes nothing, when the model refuses its own examples.
        """
        async with self._swapping:
            following = self._generation(loaded)
            try:
                await self._warm_up(following)
            except BaseException:
                await following.close()
                raise
            before, self.current = self.current, following
            self._show(before, 0)
            self._show(following, 1)  # last: both may share gauges
            await before.close()

    async def close(self) -> None:
        """Answers what waits and ends the model's thread."""
        async with self._swapping:
            await self.current.close()

    def count(self, outcome: str) -> None:
        """Counts a model that was to be put in place: `swapped` or `refused`."""
        self._outcomes[outcome].add(1)

    def check(self) -> None:
        """Raises RuntimeError when the model's thread has died."""
        self.current.batcher.check()

    def _generation(self, loaded: Loaded) -> Generation:
        options = self._options
        runner = paths.Runner(loaded.model)
        batcher = Batcher(runner, name=self.name, max_batch=options.max_batch, max_waiting=options.max_waiting)
        labels = (self.name, str(loaded.version), loaded.run_id, loaded.digest)
        drift = None
        if options.drift and loaded.reference is not None:
            drift = Drift(self.name, loaded.model, loaded.reference, self._metrics)
        info = self._metrics.value(metrics.MODEL_INFO, *labels)
        return Generation(loaded, batcher, runner, loaded.trailers, info, drift)

    async def _warm_up(self, generation: Generation) -> None:
        """Computes the model's own examples, alone and as a full batch, before callers and metrics see it."""
        examples: list[Any] = generation.loaded.model.examples()
        count = min(self._options.max_batch, self._options.max_waiting)
        full = (examples * count)[:count]
        await self._try_out(generation, full)
        await self._choose_path(generation, full)
        generation.batcher.observe = self._observe if generation.drift is None else self._watch(generation.drift)

    async def _try_out(self, generation: Generation, full: list[Any]) -> None:
        for inputs in (full[:1], full):
            for answer in await generation.batcher.submit(inputs):
                if isinstance(answer, Exception):
                    raise ValueError(f"the model of {self.name} refuses its own examples: {answer}")

    async def _choose_path(self, generation: Generation, full: list[Any]) -> None:
        """Has the model run in the fastest way that gives its answers, and tries that out on the model's thread."""
        ways = paths.ways(self._options.paths, self._options.tolerance)
        choice = await asyncio.to_thread(paths.choose, generation.loaded.model, full, ways)
        if choice.report:
            log.warning("%s runs %s; %s", self.name, choice.name, "; ".join(choice.report))
        if choice.name != paths.EAGER:
            generation.runner.choice = choice
            await self._try_out(generation, full)

    def _show(self, generation: Generation, value: float) -> None:
        """Sets the gauges that say which model is served, and how."""
        generation.info.set(value)
        self._metrics.value(metrics.PATH_INFO, self.name, generation.runner.choice.name).set(value)

    def _observe(self, batch: Batch) -> None:
        """Counts a batch that has been computed."""
        waits_s = [batch.started - call.submitted for call in batch.calls]
        self._queue.observe(waits_s)
        self._meter.add(waits_s, batch.compute_s)
        self._compute.observe([batch.compute_s])
        self._batch_size.observe([batch.size])

    def _watch(self, drift: Drift) -> Callable[[Batch], None]:
        """Makes an observer that also has the drift looked at."""

        def observe(batch: Batch) -> None:
            self._observe(batch)
            drift.offer(batch)

        return observe
