"""The report for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.inspecting.costs import HEADER
from pipelines.inspecting.drawing import shapes, short, size
from pipelines.inspecting.findings import few

if TYPE_CHECKING:
    from pipelines.inspection import Report

MARKS = {"bad": "!", "note": "-", "good": "+"}
MOST_NODES, MOST_OPERATORS, MOST_GRADIENTS = 40, 12, 5


def write(report: "Report") -> str:
    """Lays the report out in sections, each a table."""
    facts = "\n".join(f"{name:12}  {value}" for name, value in report.facts.items())
    notes = "".join(f"note          {note}\n" for note in report.notes)
    found = "\n".join(f"{MARKS[finding.level]} {finding.sentence}" for finding in report.findings)
    parts = [f"{facts}\n{notes}\nFound\n{found}", _graph(report), _values(report), _costs(report), _batches(report)]
    return "\n\n".join([*parts, *_numerics(report)]) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lays rows out in columns, numbers to the right."""
    cells = [[number(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(header), *cells]) for at in range(len(header))]
    right = [bool(rows) and all(isinstance(row[at], int | float) for row in rows) for at in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if side else cell.ljust(width)
            for cell, width, side in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def number(cell: object) -> str:
    """Writes a cell; fractions have four significant digits."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def span(norms: list[float]) -> str:
    """Writes the norms of a module's calls: one, or the smallest and the largest."""
    if not norms:
        return ""
    low, high = min(norms), max(norms)
    return f"{low:.3g}" if len(norms) == 1 or low == high else f"{low:.3g} to {high:.3g}"


def _graph(report: "Report") -> str:
    drawn = report.values.graph
    rows = [
        (
            node.number,
            short(node.name),
            f"{node.module} #{node.origin.call.number}",
            shapes(node),
            size(node.saved_bytes) if node.saved_bytes else "",
            " ".join(map(str, node.inputs)),
            node.origin.line,
        )
        for node in drawn.nodes[:MOST_NODES]
    ]
    head = f"Graph: {len(drawn.nodes)} nodes, {drawn.edge_count} edges, {size(drawn.saved_bytes)} kept for backward"
    more = len(drawn.nodes) - MOST_NODES
    rest = f"\n... and {more} more nodes; the page has them all" if more > 0 else ""
    return f"{head}\n{table(('node', 'step', 'module', 'shape', 'keeps', 'from', 'line'), rows)}{rest}"


def _values(report: "Report") -> str:
    rows = []
    for layer in report.values.layers:
        weights = [
            f"{name} {norm:.3g}/{'none' if g is None else f'{g:.3g}'}" for name, (norm, g) in layer.weights.items()
        ]
        activations = span(layer.activations), layer.largest, f"{100 * layer.zeros:.0f} %", span(layer.gradients)
        rows.append((layer.module, layer.kind, *activations, ", ".join(weights)))
    header = ("module", "class", "activation", "largest", "zeros", "gradient", "weights: norm/gradient")
    return f"Norms\n{table(header, rows)}"


def _costs(report: "Report") -> str:
    cost = report.costs
    rows = [(entry.module, *entry.figures()) for entry in cost.modules]
    header = ("module", *HEADER)
    operators = [(entry.name, entry.calls, entry.own_ms, entry.device_ms) for entry in cost.operators[:MOST_OPERATORS]]
    peak = f", at most {size(cost.peak_bytes)} on the GPU" if cost.peak_bytes is not None else ""
    phases = f"batch {cost.batch_ms:.3g} ms, forward {cost.forward_ms:.3g} ms, backward {cost.backward_ms:.3g} ms{peak}"
    listed = table(("operator", "calls", "own ms", "GPU ms"), operators)
    return f"Costs: {phases}\n{table(header, rows)}\n\nOperators, the costliest first\n{listed}"


def _batches(report: "Report") -> str:
    rows = [
        (
            batch.title,
            batch.node_count,
            batch.edge_count,
            batch.digest,
            ", ".join(str(list(shape)) for shape in batch.shapes),
            few(batch.blame) if batch.first else "",
        )
        for batch in report.batches
    ]
    return f"Graphs of batches\n{table(('batch', 'nodes', 'edges', 'fingerprint', 'tensors', 'drawn by'), rows)}"


def _numerics(report: "Report") -> list[str]:
    found = []
    for entry in report.comparisons:
        head = f"Numerics: {entry.title}, within {entry.tolerance:g}" + (f"; {entry.note}" if entry.note else "")
        if entry.losses is None or not any(one.absolute for one in [*entry.modules, *entry.gradients]):
            found.append(head + ("" if entry.losses is None else ": no number differs"))
            continue
        rows = [(one.name, one.absolute, one.relative) for one in entry.modules]
        worst = sorted(entry.gradients, key=lambda one: -one.relative)[:MOST_GRADIENTS]
        rows += [(f"gradient of {one.name}", one.absolute, one.relative) for one in worst]
        found.append(f"{head}\n{table(('module', 'largest difference', 'relative'), rows)}")
    return found
