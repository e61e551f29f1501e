"""A model's place in an endpoint: one generation of the model answers, until the next takes over between two calls."""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.policy import STATES
from services import metrics, paths, threads, tryout
from services.batches import Batch
from services.batching import Batcher
from services.drift import Drift
from services.inline import Inline
from services.models import Loaded
from services.options import Options
from services.scaling import Load, Meter

if TYPE_CHECKING:
    from services.door import Context
    from services.trial import Trial

log = logging.getLogger(__name__)

Submit = Callable[[list[Any], float], Awaitable[list[Any]]]
"""(inputs, deadline) to predictions, as Batcher.submit."""
OUTCOMES = ("swapped", "refused")
"""What can come of a model that is to be put in place of another."""
ROLES, MODES = ("champion", "candidate"), ("shadow", "canary")
RETIRE_S = 15.0
"""Longest wait for a model that was replaced to answer the calls it has, or for one that failed to end."""
WARM_UP_S = 120.0
"""Longest time for a model to answer its own examples, with compiling: one that hangs must not end the following."""
ENDS = tuple(state for state in STATES if state != "running")


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
    submit: Submit
    """Asks the model; during a rollout also counts, or has the call copied."""
    drift: Drift | None = None
    """Watches what the model is asked and says; None for a model without a reference."""

    async def close(self) -> None:
        """Answers what waits and ends the model's thread, and the one that watches it."""
        await self.batcher.close()
        if self.drift is not None:
            await self.drift.close()


class Counters:
    """The metrics of a service's rollouts, there from the start."""

    def __init__(self, name: str, figures: metrics.Metrics) -> None:
        """Opens all of them."""
        pairs = [(role, outcome) for role in ROLES for outcome in ("ok", "error")] + [("candidate", "dropped")]
        self.calls = {pair: figures.value(metrics.ROLLOUT_CALLS, name, *pair) for pair in pairs}
        self.seconds = {role: figures.histogram(metrics.ROLLOUT_SECONDS, name, role) for role in ROLES}
        self.compared = figures.value(metrics.ROLLOUT_COMPARED, name)
        self.agreed = figures.value(metrics.ROLLOUT_AGREED, name)
        self.ends = {state: figures.value(metrics.ROLLOUT_ENDS, name, state.replace(" ", "_")) for state in ENDS}
        self.shares = {mode: figures.value(metrics.ROLLOUT_SHARE, name, mode) for mode in MODES}


class Slot:
    """Holds the generation that answers now; all methods are for the event loop's thread.

    A caller picks a generation and submits to it without waiting in between, so that no reply mixes two models.
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
        self.champion = figures.value(metrics.CHAMPION, self.name)
        self.champion.set(1)
        self.replicas = figures.value(metrics.REPLICAS, self.name)
        self.wanted = figures.value(metrics.REPLICAS_WANTED, self.name)
        self.wanted.set(1)
        self._swapping = asyncio.Lock()
        self._left: set[asyncio.Task[None]] = set()
        self.counters = Counters(self.name, figures)
        self.current = self._generation(loaded)
        self.trial: Trial | None = None
        """The rollout of a candidate beside `current`, while one runs."""

    @property
    def waiting_count(self) -> int:
        """Items waiting for the model."""
        return self.current.batcher.waiting_count

    def load(self) -> Load:
        """Says how it went since last asked."""
        self._meter.refuse(self.current.batcher.take_refused())
        return self._meter.read(self.waiting_count > 0)

    def take_idle(self) -> float:
        """Says for how long the event loop only waited for more calls since last asked; in seconds."""
        return self.current.batcher.take_idle()

    def pick(self, context: "Context") -> Generation:
        """Chooses what answers a call: the current model, or during a rollout perhaps the candidate."""
        return self.current if self.trial is None else self.trial.pick(context)

    def named(self, version: str) -> Generation | None:
        """Finds what answers for a version, empty for the current one; None for one that is not here."""
        if version in ("", str(self.current.loaded.version)):
            return self.current
        candidate = self.trial and self.trial.candidate
        return candidate if candidate and version == str(candidate.loaded.version) else None

    @property
    def versions(self) -> list[str]:
        """The versions that are here, the current one first."""
        here = [self.current] if self.trial is None else [self.current, self.trial.candidate]
        return [str(generation.loaded.version) for generation in here]

    async def start(self) -> None:
        """Warms the first generation up and shows it; raises ValueError when the model refuses its own examples."""
        await self._warm_up(self.current)
        self._serve(self.current)
        self._show(self.current, 1)

    async def swap(self, loaded: Loaded) -> None:
        """Puts another generation in place, warm, and ends the one before when the calls it has are answered.

        Raises ValueError, and changes nothing, when the model refuses its own examples.
        """
        async with self._swapping:
            following = await self.prepare(loaded, served=True)
            await self._retire(self._replace(following))

    async def adopt(self) -> None:
        """Ends the rollout with its candidate, which is warm, as what answers from now on."""
        async with self._swapping:
            assert self.trial is not None
            candidate = self.trial.release()
            self._serve(candidate)
            await self._retire(self._replace(candidate))

    async def prepare(self, loaded: Loaded, served: bool) -> Generation:
        """Makes a generation and warms it up; one that is not to be served is kept out of the service's figures.

        Raises ValueError, and leaves nothing behind but a thread that hangs, when the model refuses its own examples
        or does not answer them.
        """
        made, limit = self._generation(loaded), asyncio.timeout(WARM_UP_S)
        try:
            async with limit:
                await self._warm_up(made)
        except BaseException:
            await self._retire([made])
            if limit.expired():
                raise ValueError(f"it does not answer its own examples within {WARM_UP_S:.0f} s") from None
            raise
        if served:
            self._serve(made)
        return made

    async def end_trial(self) -> None:
        """Ends the rollout without its candidate, which is then gone from memory."""
        async with self._swapping:
            trial, self.trial = self.trial, None
            if trial:
                await trial.close()

    async def close(self) -> None:
        """Answers what waits and ends the model's thread."""
        await self.end_trial()
        async with self._swapping:
            await self.current.close()

    def count(self, outcome: str) -> None:
        """Counts a model that was to be put in place: `swapped` or `refused`."""
        self._outcomes[outcome].add(1)

    def check(self) -> None:
        """Raises RuntimeError when the model's thread has died."""
        self.current.batcher.check()

    def _replace(self, following: Generation) -> "list[Generation | Trial]":
        """Puts a generation in place, all at once; returns what is to be closed."""
        before, self.current = self.current, following
        trial, self.trial = self.trial, None
        self._show(before, 0)
        self._show(following, 1)  # last: both may share gauges
        return [before, trial] if trial else [before]

    async def _retire(self, ended: "list[Generation | Trial]") -> None:
        """Closes what answers no more; one that hangs is left behind, as others wait to come after it."""
        closing = [asyncio.create_task(one.close()) for one in ended]
        self._left = {task for task in self._left if not task.done()} | set(closing)
        _, late = await asyncio.wait(closing, timeout=RETIRE_S)
        if late:
            log.error("a model of %s does not end after %.0f s; it is left behind", self.name, RETIRE_S)

    def _generation(self, loaded: Loaded) -> Generation:
        options = self._options
        runner = paths.Runner(loaded.model)
        batcher = Batcher(
            runner,
            name=self.name,
            max_batch=options.max_batch,
            max_waiting=options.max_waiting,
            inline=_inline(loaded) if options.inline else None,
        )
        labels = (self.name, str(loaded.version), loaded.run_id, loaded.digest)
        info = self._metrics.value(metrics.MODEL_INFO, *labels)
        return Generation(loaded, batcher, runner, loaded.trailers, info, batcher.submit)

    async def _warm_up(self, generation: Generation) -> None:
        """Computes the model's own examples, alone and as a full batch, before callers and metrics see it."""
        full = tryout.full_batch(generation.loaded.model, self._options)
        await self._try_out(generation, full)
        await self._choose_path(generation, full)

    async def _try_out(self, generation: Generation, full: list[Any]) -> None:
        for inputs in (full[:1], full):
            tryout.check(self.name, await generation.batcher.submit(inputs))

    async def _choose_path(self, generation: Generation, full: list[Any]) -> None:
        """Has the model run in the fastest way that gives its answers, and tries that out on the model's thread."""
        ways = paths.ways(self._options.paths, self._options.tolerance)
        choose = functools.partial(paths.choose, generation.loaded.model, full, ways)
        choice = await asyncio.wrap_future(threads.begin(choose, f"paths-{self.name}"))
        if choice.report:
            log.warning("%s runs %s; %s", self.name, choice.name, "; ".join(choice.report))
        if choice.name != paths.EAGER:
            generation.runner.choice = choice
            await self._try_out(generation, full)

    def _show(self, generation: Generation, value: float) -> None:
        """Sets the gauges that say which model is served, and how."""
        generation.info.set(value)
        self._metrics.value(metrics.PATH_INFO, self.name, generation.runner.choice.name).set(value)

    def _serve(self, generation: Generation) -> None:
        """Has the batches of a generation counted in the service's figures, and its drift watched."""
        loaded = generation.loaded
        if self._options.drift and loaded.reference is not None:
            generation.drift = Drift(self.name, loaded.model, loaded.reference, self._metrics)
        generation.batcher.observe = self.observe if generation.drift is None else self._watch(generation.drift)

    def observe(self, batch: Batch) -> None:
        """Counts a batch, and the calls that waited for it until their time was up."""
        now = time.monotonic()
        late_s = [now - call.submitted for call in batch.late]
        waits_s = [batch.started - call.submitted for call in batch.calls]
        self._queue.observe(waits_s + late_s)
        self._meter.add(waits_s + late_s, batch.compute_s)
        if batch.size:
            self._compute.observe([batch.compute_s])
            self._batch_size.observe([batch.size])

    def _watch(self, drift: Drift) -> Callable[[Batch], None]:
        """Makes an observer that also has the drift looked at."""

        def observe(batch: Batch) -> None:
            self.observe(batch)
            drift.offer(batch)

        return observe


def _inline(loaded: Loaded) -> Inline | None:
    """Lets the event loop compute a model's small batches; None for a task of a user's own, and off the CPU.

    What such a task does nobody knows here: it may ask a database, or run a loop of its own.
    """
    network = getattr(loaded.model, "network", None)
    if loaded.service is None or network is None:
        return None
    has_weights = any(True for _ in network.parameters())  # what stands in for a network elsewhere has none
    return Inline(loaded.service.weigh) if has_weights and paths.is_on_cpu(network) else None
