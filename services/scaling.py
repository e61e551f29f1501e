"""How many replicas an endpoint has: a fixed number, or as many as keep the wait for the model short.

Serve counts the requests that pass its handles, and calls do not pass them here: each replica reports instead how long
calls wait for its models and how busy these are, and the policy below decides by that. Serve pickles this module into
its controller, which need not have eagerly installed: standard library only.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

QUEUE_S, BUSY, LOOP, REFUSED = "queue_s", "busy", "loop", "refused"
"""What a replica reports, by the names that the policy finds them under."""
REPORT_S = 1.0
"""Seconds between reports."""
MOST_GROWTH = 2.0
"""How many times as many replicas one step may want."""
IDLE = 0.05
"""Share of its time below which a replica does nothing to speak of: calls do not reach it."""
FULL = 0.7
"""Share of their time that the replicas that remain may be busy after a step down."""
SATURATED = 0.75
"""Share of its time for which an event loop that is full computes, beside others that want its core: calls then wait
before any queue of ours. Above FULL, so that no step down follows."""
MOST_REFUSED = 0.01
"""Share of calls that replicas which are busy may refuse because time or room is short: their callers wait for less
than the target, or not at all."""
CALM = 0.5
"""Share of the target that the wait must be below for a step down; between the two nothing changes."""


@dataclass(frozen=True)
class Scaling:
    """How many replicas there are, and when there are more or fewer."""

    replicas: int = 1
    """Processes that hold the models and share the port; with --max-replicas the least of them."""
    max_replicas: int = 0
    """Most replicas, when their number follows the load; 0 keeps it at --replicas."""
    target_queue_ms: float = 50.0
    """Mean wait of calls for the model, in milliseconds, above which replicas are added."""
    scale_up_s: float = 10.0
    """Seconds for which the wait must be too long before replicas are added."""
    scale_down_s: float = 300.0
    """Seconds for which fewer replicas must do before some are taken away."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        if self.replicas < 1:
            raise ValueError(f"--replicas is {self.replicas}; the least allowed is 1")
        if self.max_replicas and self.max_replicas < self.replicas:
            allowed = f"at least --replicas, {self.replicas}, or 0 for a fixed number"
            raise ValueError(f"--max-replicas is {self.max_replicas}; it must be {allowed}")
        if not 0 < self.target_queue_ms < float("inf"):
            raise ValueError(f"--target-queue-ms is {self.target_queue_ms}; it must be finite and above 0")
        for name in ("scale_up_s", "scale_down_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be finite, 0 or more")

    @property
    def most(self) -> int:
        """The most replicas that there may be."""
        return self.max_replicas or self.replicas

    @property
    def is_automatic(self) -> bool:
        """Whether the number follows the load."""
        return self.most > self.replicas

    def config(self) -> "AutoscalingConfig":
        """Describes it to Serve, which must be there; for a number that follows the load."""
        from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

        policy = AutoscalingPolicy(
            policy_function="services.scaling:QueuePolicy",
            policy_kwargs={"target_queue_s": self.target_queue_ms / 1000},
        )
        with warnings.catch_warnings():
            # Serve means to move the interval into an environment variable, but reads it from here alone (2.60).
            warnings.filterwarnings("ignore", message="The `metrics_interval_s` field", category=DeprecationWarning)
            return AutoscalingConfig(
                min_replicas=self.replicas,
                max_replicas=self.max_replicas,
                upscale_delay_s=self.scale_up_s,
                downscale_delay_s=self.scale_down_s,
                metrics_interval_s=REPORT_S,
                look_back_period_s=min(10.0, max(2 * REPORT_S, self.scale_up_s)),
                policy=policy,
            )


class QueuePolicy:
    """Wants more replicas while calls wait too long, and fewer once the work of all fits into fewer.

    Serve keeps to the least and the most, and waits until the same has been wanted for as long as its delays say.
    """

    def __init__(self, target_queue_s: float) -> None:
        """Takes the wait above which there are too few."""
        self._target_queue_s = target_queue_s

    def __call__(self, ctx: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        """Says how many replicas there should be, by what they reported; Serve keeps the empty state beside it."""
        reported = ctx.aggregated_metrics or {}
        queue_s, busy, loops, refused = ([*reported.get(name, {}).values()] for name in (QUEUE_S, BUSY, LOOP, REFUSED))
        now = ctx.target_num_replicas
        if not busy:
            return now, {}
        then = wanted(now, queue_s, busy, self._target_queue_s, loops, refused)
        return min(now, then) if len(busy) < now else then, {}  # what those take over that start is not known yet


def wanted(
    now: int,
    queue_s: list[float],
    busy: list[float],
    target_queue_s: float,
    loops: Sequence[float] = (),
    refused: Sequence[float] = (),
) -> int:
    """Says how many replicas should take the place of `now`.

    queue_s: mean wait of calls at each replica. busy: share of its time for which each computes. loops: the same of
    their event loops alone. refused: share of the calls of each that it refused for lack of time or room. A replica
    that idles while calls wait elsewhere shows that connections do not spread: one more would idle too, so none is
    added.
    """
    mean_s = _mean(queue_s)
    refuses = _mean(refused) >= MOST_REFUSED and _mean(busy) >= FULL
    is_short = mean_s > target_queue_s or _mean(loops) >= SATURATED or refuses
    if is_short and min(busy) >= IDLE:
        return max(now + 1, math.ceil(now * min(MOST_GROWTH, mean_s / target_queue_s)))
    if not is_short and max(queue_s) < target_queue_s * CALM:
        return min(now, max(1, math.ceil(sum(busy) / FULL)))
    return now


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


class Load(NamedTuple):
    """How it went with a model for a while."""

    wait_s: float
    """Mean wait of calls."""
    busy: float
    """Share of the time for which it computed."""
    refused: float
    """Share of calls that were refused because time or room was too short."""


class Meter:
    """Measures one model's waits and work between two readings; for one thread."""

    def __init__(self) -> None:
        """Begins to measure."""
        self._read = self._computed = time.monotonic()
        self._waits_s = 0.0
        self._calls_count = self._refused_count = 0
        self._compute_s = 0.0

    def add(self, waits_s: list[float], compute_s: float) -> None:
        """Notes a batch: how long each call of it waited, and how long it was computed."""
        self._waits_s += sum(waits_s)
        self._calls_count += len(waits_s)
        self._compute_s += compute_s
        self._computed = time.monotonic()

    def refuse(self, calls_count: int) -> None:
        """Notes calls that were refused at once because the time they had left, or the room for them, was too short."""
        self._refused_count += calls_count

    def read(self, is_waiting: bool) -> Load:
        """Says how it went since the reading before, and begins anew.

        is_waiting: whether calls wait now; while no batch ends they have waited nearly as long as the last is past.
        """
        now = time.monotonic()
        stuck_s = now - max(self._read, self._computed) if is_waiting else 0.0
        wait_s = self._waits_s / self._calls_count if self._calls_count else stuck_s
        past_s = max(now - self._read, 1e-6)
        busy = min(1.0, self._compute_s / past_s)
        self._compute_s = max(0.0, self._compute_s - past_s)  # of a batch longer than the time between readings
        refused = self._refused_count / max(1, self._calls_count + self._refused_count)
        self._read, self._waits_s, self._calls_count, self._refused_count = now, 0.0, 0, 0
        return Load(wait_s, busy, refused)


class Thread:
    """Measures how busy a thread is between two readings; for that thread, which takes them."""

    def __init__(self) -> None:
        """Begins to measure."""
        self._read, self._cpu = time.monotonic(), time.thread_time()

    def read(self, idle_s: float = 0.0) -> float:
        """Gives the share of its time for which it computed since the reading before, and begins anew.

        idle_s: processor time in between that it only waited in.
        """
        before, cpu_before = self._read, self._cpu
        self._read, self._cpu = time.monotonic(), time.thread_time()
        busy_s = max(0.0, self._cpu - cpu_before - idle_s)
        return min(1.0, busy_s / max(self._read - before, 1e-6))
