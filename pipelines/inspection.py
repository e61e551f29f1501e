"""Looks inside one real step of a task: the graph that the data drew, its values, its costs, its numerics."""

import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipelines.examples import Data
from pipelines.inspecting import change, costs, findings, norms, numerics, page, rows, subject, text
from pipelines.inspecting.findings import Finding
from pipelines.inspecting.peers import Peers
from pipelines.place import Place
from pipelines.settings import Settings
from pipelines.tasks import Task

PAGE, TEXT, TRACE = "inspection.html", "inspection.txt", "trace.json"


@dataclass(frozen=True)
class Wish:
    """What is to be looked at."""

    run_dir: Path | None = None
    """Folder of a run, whose newest checkpoint has the weights; None takes fresh ones."""
    file: Path | None = None
    """File whose rows make up the batch; None takes the run's next one."""
    ways: tuple[numerics.Way, ...] = ("amp", "ddp", "compile")
    """Other ways to compute the step, to be compared with eager."""
    batches: int = 3
    """Following batches whose graphs are compared with the step's."""
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's own number."""


@dataclass
class Report:
    """All that one inspection found."""

    task: str
    facts: dict[str, str]
    """What was inspected, where, with which versions."""
    notes: list[str]
    values: norms.Values
    batches: list[change.Batch]
    costs: costs.Costs
    comparisons: list[numerics.Comparison]
    findings: list[Finding] = field(default_factory=list)

    def to_text(self) -> str:
        """Writes the report for a terminal."""
        return text.write(self)

    def to_page(self) -> str:
        """Writes the report as HTML that needs nothing else."""
        return page.write(self)


def inspect(task: Task, config: Settings, wish: Wish, out: Path, data: Data | None = None) -> Report:
    """Runs one step without changing a weight, and leaves page, text and trace in a folder that it makes.

    Raises ValueError for a run without a checkpoint or of another task, and for a file whose rows make no batch.
    """
    if wish.threads:
        torch.set_num_threads(wish.threads)
    with ExitStack() as stack:
        peers = None
        if {"ddp", "compile"} & set(wish.ways):  # now, so that they import what they need while the data is read
            peers = stack.enter_context(Peers(torch.get_num_threads()))
        place = Place(device=wish.device, threads=torch.get_num_threads())
        looked_at = subject.prepare(task, config, data or task.data.load(config), place, wish.run_dir)
        if wish.file is not None:
            rows.take(looked_at, wish.file)
        out.mkdir(parents=True, exist_ok=True)
        report = _measure(looked_at, wish, out, peers)
    report.findings = findings.find(report, getattr(task.train, "STATIC_GRAPH", True))
    (out / TEXT).write_text(report.to_text(), encoding="utf-8")
    (out / PAGE).write_text(report.to_page(), encoding="utf-8")
    return report


def _measure(looked_at: subject.Subject, wish: Wish, out: Path, peers: Peers | None) -> Report:
    values = norms.measure(looked_at)
    batches = change.compare(looked_at, looked_at.following(wish.batches))
    cost = costs.measure(looked_at, values.graph, out / TRACE)
    comparisons = numerics.compare(looked_at, wish.ways, peers)
    threads = torch.get_num_threads()
    facts = {
        "task": looked_at.task.name,
        "weights": looked_at.origin,
        "step": looked_at.place(),
        "examples": findings.few(looked_at.names),
        "loss": f"{values.loss:.6g}",
        "precision": str(looked_at.half).removeprefix("torch.") if looked_at.is_amp else "float32",
        "computed on": f"{_device(wish.device)}, {threads} thread{'s' * (threads > 1)}, PyTorch {torch.__version__}",
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    return Report(looked_at.task.name, facts, looked_at.notes, values, batches, cost, comparisons)


def _device(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU ({platform.machine()})"
