"""What an inspection found, in sentences, the gravest first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.inspecting.change import Batch
from pipelines.inspecting.norms import Break
from pipelines.inspecting.numerics import Comparison

if TYPE_CHECKING:
    from pipelines.inspection import Report

FEW = 8
ORDER = ("bad", "note", "good")
TINY, LARGE = 1e-8, 1e4
"""Norms of a parameter's gradient that are worth a word."""


@dataclass(frozen=True)
class Finding:
    """One sentence."""

    level: Literal["bad", "note", "good"]
    sentence: str


def find(report: "Report", static: bool) -> list[Finding]:
    """Draws the conclusions; `static` is what the task says of its graph."""
    found = [*_values(report), *_gradients(report), *_changes(report.batches, static)]
    found += [finding for entry in report.comparisons for finding in _numerics(entry)]
    return sorted(found, key=lambda finding: ORDER.index(finding.level))


def _values(report: "Report") -> list[Finding]:
    values = report.values
    found = [Finding("bad", f"{sentence}.") for sentence in values.spoiled]
    for broken in (values.forward, values.backward):
        if broken is not None:
            found.append(Finding("bad", describe(broken)))
    if not found:
        found.append(Finding("good", f"All values are finite, forward and backward; the loss is {values.loss:.6g}."))
    return found


def describe(broken: Break) -> str:
    """Says where values stop being finite."""
    kind = f" ({broken.kind})" if broken.kind else ""
    where = f"{broken.origin.call.module}{kind}, call {broken.origin.call.number}"
    line = f" at {broken.origin.line}" if broken.origin.line else ""
    numbers = f"{broken.nan_count} NaN and {broken.infinite_count} infinite of {broken.count} numbers"
    whose = f"; it comes from {few(broken.examples)}" if broken.examples else "; no example alone brings it about"
    place = f"Values first stop being finite in the {broken.direction} pass in {where}"
    return f"{place}: {broken.where}{line} gives {numbers}{whose}."


def _gradients(report: "Report") -> list[Finding]:
    missing, tiny, large = [], [], []
    for layer in report.values.layers:
        for name, (_, gradient) in layer.weights.items():
            full = f"{layer.module}.{name}".removeprefix("(network).")
            if gradient is None:
                missing.append(full)
            elif gradient > LARGE:
                large.append(full)
            elif 0 <= gradient < TINY:
                tiny.append(full)
    found = []
    if missing:
        found.append(Finding("note", f"No gradient reaches {few(missing)}: nothing of the loss depends on it."))
    if tiny:
        found.append(Finding("note", f"The gradient of {few(tiny)} is below {TINY:g}: it learns nothing in this step."))
    if large:
        found.append(
            Finding("note", f"The gradient of {few(large)} is above {LARGE:g}; --clip 1 would bound the step.")
        )
    return found


def _changes(batches: list[Batch], static: bool) -> list[Finding]:
    changed = [batch for batch in batches if batch.first]
    if not batches[1:]:
        return []
    if not changed:
        found = [Finding("good", f"The graph of {len(batches)} batches is the same, {batches[0].node_count} nodes.")]
        if len({str(batch.shapes) for batch in batches}) > 1:
            found.append(
                Finding("note", "The shapes of the batches differ: what is compiled is compiled for each anew.")
            )
        return found
    found = [Finding("note", change(batch, batches[0])) for batch in changed]
    if static:
        found.insert(
            0,
            Finding(
                "bad", "The graph depends on the data, but train.py does not say STATIC_GRAPH = False; DDP needs it."
            ),
        )
    return found


def change(batch: Batch, own: Batch) -> str:
    """Says how the graph of a batch differs from the step's, and what made it so."""
    calls = f"; {batch.counts}" if batch.counts else ""
    shape = f"; its tensors are {_shapes(batch)}, here {_shapes(own)}" if batch.shapes != own.shapes else ""
    counts = f"has {batch.node_count} nodes, here {own.node_count}"
    text = f"The graph of {batch.title} {counts}; first differs: {batch.first}{calls}{shape}"
    if not batch.blame:
        return f"{text}; no example alone draws it so."
    everyone = len(batch.blame) == batch.tried > FEW
    whose = f"each of {batch.tried} examples" if everyone else few(batch.blame)
    tried = f" (of the first {batch.tried})" if batch.tried < batch.example_count else ""
    if batch.lacks:
        return f"{text}; what it lacks is drawn here, alone, by {whose}{tried}."
    return f"{text}; alone, it is drawn so by {whose}{tried}."


def _shapes(batch: Batch) -> str:
    return ", ".join(str(list(shape)) for shape in batch.shapes)


def _numerics(entry: Comparison) -> list[Finding]:
    if entry.losses is None:
        return [Finding("note", f"{entry.title}: {entry.note}.")]
    if not entry.first:
        how = f"within {entry.tolerance:g}" if entry.tolerance else "to the last bit"
        if entry.is_part:
            return [Finding("note", f"{entry.title}: {entry.note}; {_agree(entry.compared)} {how}.")]
        if not entry.compared:
            return [Finding("note", f"{entry.title}: no module's numbers could be compared.")]
        return [Finding("good", f"{entry.title}: all modules agree {how}.")]
    if entry.way == "again":
        return [
            Finding(
                "note", f"{entry.title}: {entry.first} is the first that gives something else: it draws random numbers."
            )
        ]
    worst = max([difference.relative for difference in entry.modules], default=0.0)
    beyond = f"beyond {entry.tolerance:g}, at most {worst:.2g}, relative to the largest value"
    reason = (
        " (BatchNorm sees half the examples on each rank)" if entry.way == "ddp" and "BatchNorm" in entry.kind else ""
    )
    return [Finding("note", f"{entry.title}: the first module that differs ({beyond}) is {entry.first}{reason}.")]


def _agree(count: int) -> str:
    return f"these {count} agree" if count else "there is none, and the gradients agree"


def few(names: list[str]) -> str:
    """Lists names, of many the first ones; of examples of one kind the word once."""
    heads = {name.rpartition(" ")[0] for name in names}
    if len(names) > 1 and len(heads) == 1 and (head := heads.pop()):
        shown = ", ".join(name.rpartition(" ")[2] for name in names[:FEW])
        text = f"{head}s {shown}"
    else:
        text = ", ".join(names[:FEW])
    return f"{text} and {len(names) - FEW} more" if len(names) > FEW else text
