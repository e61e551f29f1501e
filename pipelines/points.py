"""Turns a run's journal into points of metrics, the same whatever store they are for; standard library only."""

from collections import Counter
from dataclasses import dataclass

from pipelines.journal import Event

LONGEST = 5000
"""Characters that a tag of MLflow's may have."""
SPEED = "train/examples_per_second"
ORDINARY = ("starting", "loading", "start", "steps", "epoch", "testing", "test", "load", "error", "state")
"""Events that every run has; the others (resume, guard, checkpoint ...) are counted by kind as events/KIND."""

FIGURES = {"compiled": ("graphs", "breaks", "recompiles", "gain", "seconds")}
"""What of such an event is a metric of its own, as KIND/NAME."""


@dataclass(frozen=True)
class Point:
    """A value of a metric at a step."""

    name: str
    step: int
    value: float
    time: float
    """Seconds since 1970, as the journal has it, so that a point that is sent again is the same point."""


class Points:
    """Reads points off events in the order of the journal; what a resumed run takes again comes again."""

    def __init__(self) -> None:
        """Starts before the first event."""
        self.step = 0
        """Steps taken, as of the last event."""
        self.counts: Counter[str] = Counter()
        self.starts = 0
        self.error = ""
        """The sentence of the last error, empty once a run goes on after it."""

    def take(self, event: Event) -> list[Point]:
        """Gives the points of one event."""
        match event["event"]:
            case "start":
                self.starts, self.error = self.starts + 1, ""
                self.step = event.get("step", 0)
                return []
            case "steps":
                return self._steps(event)
            case "epoch":
                return self._metrics("valid", event, event["step"])
            case "test":
                return self._metrics("test", event, self.step)
            case "load":
                return self._metrics("system", event, event["step"])
            case "error":
                self.error = str(event.get("sentence", ""))
                return []
            case kind if kind not in ORDINARY:
                self.counts[kind] += 1
                figures = {f"events/{kind}": self.counts[kind]}
                figures |= {f"{kind}/{name}": event[name] for name in FIGURES.get(kind, ()) if name in event}
                step = int(event.get("step", self.step))
                return [Point(name, step, float(value), event["time"]) for name, value in figures.items()]
        return []

    def _steps(self, event: Event) -> list[Point]:
        first, time = event["first"], event["time"]
        losses = [Point("train/loss", step, loss, time) for step, loss in enumerate(event["losses"], start=first)]
        self.step = first + len(losses)
        last = self.step - 1
        rest = {"train/lr": event["lr"], SPEED: event["examples_per_second"]}
        return losses + [Point(name, last, value, time) for name, value in rest.items()]

    def _metrics(self, split: str, event: Event, step: int) -> list[Point]:
        return [Point(f"{split}/{name}", step, value, event["time"]) for name, value in event["metrics"].items()]


class Once:
    """Passes each step of each metric once, as stores need that can only append.

    A step that is taken again after a restart has the same value, and is passed over. After a roll back, or with
    another number of workers, it has another: the first keeps its place, and what survives goes to retaken/NAME.
    """

    def __init__(self) -> None:
        """Knows of no point yet."""
        self._values: dict[str, dict[int, float]] = {}
        self._retaken: set[int] = set()

    def take(self, points: list[Point]) -> list[Point]:
        """Gives those of the points that are new."""
        return [found for point in points if (found := self._pass(point)) is not None]

    def _pass(self, point: Point) -> Point | None:
        name = point.name
        while point.step in (known := self._values.setdefault(name, {})):
            then = known[point.step]
            once = name == SPEED or name.startswith(("system/", "events/", "compiled/"))
            if once or then == point.value or (then != then and point.value != point.value):
                return None
            name = _again(name)
            self._retaken.add(point.step)
        known[point.step] = point.value
        return Point(name, point.step, point.value, point.time)

    @property
    def retaken(self) -> str:
        """Lists the steps that were taken again with other values, as ranges; empty when there were none."""
        ranges: list[list[int]] = []
        for step in sorted(self._retaken):
            if ranges and step == ranges[-1][1] + 1:
                ranges[-1][1] = step
            else:
                ranges.append([step, step])
        return ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in ranges)


def _again(name: str) -> str:
    """Names the place of the next value of a step: retaken/loss, then retaken-2/loss and so on."""
    head, _, tail = name.partition("/")
    if not head.startswith("retaken"):
        return f"retaken/{name}"
    number = int(head.removeprefix("retaken").removeprefix("-") or "1")
    return f"retaken-{number + 1}/{tail}"


def about(points: Points, once: Once) -> dict[str, str]:
    """Sums up what happened to a run besides its metrics: restarts, events by kind, steps taken again, last error."""
    found = {
        "eagerly.restarts": max(0, points.starts - 1),
        "eagerly.events": " ".join(f"{kind}={count}" for kind, count in sorted(points.counts.items())),
        "eagerly.retaken": once.retaken,
        "eagerly.error": points.error,
    }
    return {name: str(value)[:LONGEST] for name, value in found.items() if value}
