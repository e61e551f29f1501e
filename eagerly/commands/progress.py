"""Shows how runs go on, from the first second, by reading their journals."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.journal import Event, Reader

REFRESH_SECONDS = 0.1
LINE_SECONDS = 2.0
"""Where the output is no terminal, a line at most so often."""


@dataclass
class State:
    """What is known of the run that is being trained."""

    name: str
    phase: str = "starting"
    step: int = 0
    steps: int = 0
    loss: float = float("nan")
    speed: float = 0.0
    began: float = 0.0
    began_step: int = 0
    valid: str = ""
    done: bool = False
    notes: list[str] = field(default_factory=list)
    """What is to be said once, such as what went wrong without ending the run, and was not shown yet."""
    waits_for: str = ""
    """The sentence that says so, while the cluster lacks room."""
    restarts: int = 0
    workers: int = 0

    def take(self, event: Event) -> None:
        """Brings the state up to date with an event of the journal."""
        match event["event"]:
            case "waiting":
                self.phase = self.waits_for = event["sentence"]
            case "starting":
                self.phase, self.waits_for = "starting", ""
            case "workers":
                self.workers = event["count"]
            case "restart":
                self.restarts += 1
                self.phase = f"restarting, {event['reason']}"
            case "loading":
                self.phase, self.waits_for = event.get("sentence", "loading data"), ""
            case "start":
                self.phase, self.step, self.steps = "training", event["step"], event["steps"]
                self.began, self.began_step = event["time"], event["step"]
            case "steps":
                self.step = event["first"] + len(event["losses"])
                self.loss, self.speed = event["losses"][-1], event["examples_per_second"]
            case "epoch":
                self.valid = "  ".join(f"{name} {value:.4f}" for name, value in event["metrics"].items())
            case "testing":
                self.phase = "testing"
            case "test":
                self.phase, self.done, self.step = "trained", True, self.steps
            case "resume":
                self.notes += [f"passed over: {problem}" for problem in event.get("problems", [])]
                self.notes += [f"no longer bit-identical: it {why}" for why in event.get("inexact", [])]
            case "compiled":
                self.notes.append(_compiled(event))
            case "checkpoint" | "storage" if event.get("problem"):
                self.notes.append(event["problem"])

    def seconds_left(self) -> float | None:
        """Estimates the time to the last step from the speed so far."""
        taken = self.step - self.began_step
        if not taken or self.phase != "training":
            return None
        return (time.time() - self.began) / taken * (self.steps - self.step)

    def figures(self) -> str:
        """Puts loss, speed and time left in words."""
        left = self.seconds_left()
        return "  ".join(
            [
                f"loss {self.loss:.4f}" if self.loss == self.loss else "loss -",
                f"{self.speed:,.0f} examples/s" if self.speed else "",
                f"{left:.0f} s left" if left is not None else "",
                f"{self.restarts} restart{'s' if self.restarts > 1 else ''}" if self.restarts else "",
                f"{self.workers} workers" if self.workers > 1 else "",
            ]
        ).strip()


def _compiled(event: Event) -> str:
    """Says whether the network runs compiled, why, and at how many places Python ends a graph."""
    said = f"torch.compile is {'used' if event['used'] else 'not used'}"
    if event.get("why"):
        said += f": {event['why']}"
    if "breaks" not in event:
        return said
    counts = ", ".join(f"{event[kind]} {kind}" for kind in ("graphs", "breaks", "recompiles"))
    return f"{said}; {counts}{''.join(f'; {reason}' for reason in event['reasons'])}"


class Display:
    """A progress bar a run on a terminal, a line now and then elsewhere; on standard error."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Follows the journals in the run folders, which may not exist yet."""
        self._readers = [Reader(folder) for folder in folders]
        for reader in self._readers:
            reader.skip()
        self._states = [State(folder.name) for folder in folders]
        self._phase = ""
        self._print: Callable[[str], None] = partial(print, file=sys.stderr, flush=True)
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._began = time.monotonic()
        work = self._draw_bars if sys.stderr.isatty() else self._print_lines
        self._thread = threading.Thread(target=work, daemon=True)

    def __enter__(self) -> "Display":
        """Starts showing."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shows the last state and stops."""
        self._ended.set()
        self._thread.join()
        self._print = partial(print, file=sys.stderr, flush=True)
        self._show_notes()

    def say(self, phase: str) -> None:
        """Names what happens beside the training, such as registering."""
        self._phase = phase

    def note(self, sentence: str) -> None:
        """Shows a sentence about something that is amiss, above the progress; from any thread."""
        self._notes.put(f"eagerly: {' '.join(sentence.split())}")

    def _show_notes(self) -> None:
        while not self._notes.empty():
            self._print(self._notes.get())

    def _update(self) -> None:
        for reader, state in zip(self._readers, self._states, strict=True):
            for event in reader.new_events():
                state.take(event)
            for note in state.notes:
                self._print(f"eagerly: {state.name}: {note}")
            state.notes.clear()

    def _headline(self) -> str:
        return f"{self._phase or 'starting'}, {time.monotonic() - self._began:.0f} s"

    def _print_lines(self) -> None:
        printed, last = "", 0.0
        while not self._ended.wait(REFRESH_SECONDS) or printed != self._line():
            self._update()
            line, is_due = self._line(), self._ended.is_set() or not self._notes.empty()
            if line != printed and (is_due or time.monotonic() - last >= LINE_SECONDS):
                print(f"[{time.monotonic() - self._began:5.0f} s] {line}", file=sys.stderr, flush=True)
                printed, last = line, time.monotonic()
            self._show_notes()

    def _line(self) -> str:
        active = [state for state in self._states if state.steps and not state.done]
        if self._phase or not active:
            first = self._states[0]
            return self._phase or ("evaluating" if first.steps else first.phase.replace("starting", "starting workers"))
        state = active[-1]
        return f"{state.name}  {state.phase}  step {state.step}/{state.steps}  {state.figures()}  valid {state.valid}"

    def _draw_bars(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn())
        with Progress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True)) as bars:
            self._print = partial(bars.console.print, markup=False, highlight=False)
            head = bars.add_task("", total=None, figures="")
            rows: list[Any] = [bars.add_task(state.name, total=None, figures="") for state in self._states]
            ended = False
            while not ended:
                ended = self._ended.wait(REFRESH_SECONDS)
                self._update()
                bars.update(head, description=self._headline())
                for row, state in zip(rows, self._states, strict=True):
                    text = f"{state.phase}  {state.figures()}"
                    bars.update(row, completed=state.step, total=state.steps or None, figures=text)
                self._show_notes()
            bars.remove_task(head)
