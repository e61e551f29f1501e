"""The report as one HTML page that asks nothing of the network."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from pipelines.inspecting.costs import HEADER
from pipelines.inspecting.drawing import draw, shapes, size
from pipelines.inspecting.findings import few
from pipelines.inspecting.text import number, span
from pipelines.inspecting.trail import Call

if TYPE_CHECKING:
    from pipelines.inspection import Report

MOST_ROWS = 5_000
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1500px; padding: 0 24px 60px; color: #1c1c1c }
nav { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ddd; padding: 10px 0; z-index: 1 }
nav a { margin-right: 18px } a { color: #0b57a4; text-decoration: none }
h1 { font-size: 22px } h2 { font-size: 18px; margin-top: 34px } h3 { font-size: 15px }
table { border-collapse: collapse; font-size: 13px } th, td { padding: 3px 10px; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #bbb; position: sticky; top: 0; background: #fff } td { border-bottom: 1px solid #eee }
.side td { white-space: nowrap }
td.number { text-align: right; font-variant-numeric: tabular-nums }
ul.found { list-style: none; padding: 0 } ul.found li { border-left: 5px solid; padding: 5px 12px; margin: 6px 0 }
ul.found li.bad { border-color: #c62828; background: #fdeceb }
ul.found li.note { border-color: #e0a100; background: #fff8e5 }
ul.found li.good { border-color: #2e7d32; background: #edf7ee }
.graph, .rows { overflow: auto; max-height: 640px; border: 1px solid #ddd; border-radius: 6px; padding: 6px }
.side { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 16px } .side > * { min-width: 0 }
.graph text { font: 11px ui-monospace, monospace; text-anchor: middle } .box rect { stroke: #888 }
.box.weight rect { stroke-dasharray: 3 2 } .box.bad rect { stroke: #c62828; stroke-width: 3 }
.edge { fill: none; stroke: #777; marker-end: url(#arrow) } .back { stroke-dasharray: 4 3 }
input { font: inherit; padding: 4px 8px; width: 280px; margin: 6px 0 } details { margin: 8px 0 }
summary { cursor: pointer } .dim { color: #777 }
"""
SCRIPT = """
for (const box of document.querySelectorAll('input[data-for]')) box.addEventListener('input', () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelectorAll('#' + box.dataset.for + ' tbody tr')) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
});
function open() {
  const part = location.hash && document.querySelector(location.hash);
  if (part && part.tagName === 'DETAILS') { part.open = true; part.scrollIntoView(); }
}
addEventListener('hashchange', open); open();
"""
SECTIONS = ("found", "graph", "values", "costs", "batches", "numerics")


def write(report: "Report") -> str:
    """Writes the page."""
    title = f"Inside a step of {report.task}"
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in SECTIONS)
    bodies = (_found(report), _graph(report), _values(report), _costs(report), _batches(report), _numerics(report))
    sections = "".join(
        f'<section id="{name}"><h2>{name.capitalize()}</h2>{body}</section>'
        for name, body in zip(SECTIONS, bodies, strict=True)
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><nav><b>{escape(title)}</b> &nbsp; {links}</nav>"
        f"{sections}<script>{SCRIPT}</script></body></html>\n"
    )


def _table(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Writes a table with a box that searches it."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    search = f'<input type="search" placeholder="search these rows" aria-label="search" data-for="{name}">'
    table = f'<table id="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div>{search}<div class="rows">{table}</div></div>'


def _cell(cell: object) -> str:
    kind = ' class="number"' if isinstance(cell, int | float) else ""
    return f"<td{kind}>{escape(number(cell))}</td>"


def _found(report: "Report") -> str:
    facts = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in report.facts.items())
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    items = "".join(f'<li class="{finding.level}">{escape(finding.sentence)}</li>' for finding in report.findings)
    return f'<ul class="found">{items}</ul><table>{facts}</table>{notes}'


def _graph(report: "Report") -> str:
    drawn, values = report.values.graph, report.values
    bad: set[Call] = {broken.origin.call for broken in (values.forward, values.backward) if broken is not None}
    rows = [
        (
            node.number,
            node.name,
            node.module,
            node.origin.call.number,
            node.origin.operator,
            shapes(node),
            node.dtype,
            size(node.saved_bytes),
            "; ".join(node.saved),
            " ".join(map(str, node.inputs)),
            node.origin.line,
        )
        for node in drawn.nodes[:MOST_ROWS]
    ]
    header = ("node", "name", "module", "call", "operator", "shape", "dtype", "keeps", "kept", "from", "line")
    left_out = len(drawn.nodes) - len(rows)
    cut = f"<p>{left_out} more nodes are not in the table.</p>" if left_out > 0 else ""
    kept = f"{size(drawn.saved_bytes)} kept for the backward pass beside the weights"
    head = f"<p>{len(drawn.nodes)} nodes, {drawn.edge_count} edges, {kept}. Data flows down; weights are dashed.</p>"
    return f'{head}<div class="side"><div>{draw(drawn, bad)}</div>{_table("nodes", header, rows)}</div>{cut}'


def _values(report: "Report") -> str:
    rows = [
        (
            layer.module,
            layer.kind,
            len(layer.activations),
            span(layer.activations),
            layer.largest,
            f"{100 * layer.zeros:.0f} %",
            span(layer.gradients),
            ", ".join(f"{name} {norm:.3g}" for name, (norm, _) in layer.weights.items()),
            ", ".join(f"{name} {'none' if g is None else f'{g:.3g}'}" for name, (_, g) in layer.weights.items()),
        )
        for layer in report.values.layers
    ]
    header = (
        "module",
        "class",
        "calls",
        "activation",
        "largest",
        "zeros",
        "gradient by it",
        "weights",
        "their gradients",
    )
    explained = (
        "<p>Euclidean norms of what each module gives and of the loss's gradient by it; two where calls differ.</p>"
    )
    return explained + _table("norms", header, rows)


def _costs(report: "Report") -> str:
    cost = report.costs
    rows = [(entry.module, entry.kind, *entry.figures()) for entry in cost.modules]
    header = ("module", "class", *HEADER)
    operators = [(one.name, one.calls, one.own_ms, one.device_ms, size(one.allocated_bytes)) for one in cost.operators]
    peak = f" At most {size(cost.peak_bytes)} on the GPU." if cost.peak_bytes is not None else ""
    head = (
        f"<p>Batch {cost.batch_ms:.3g} ms, forward {cost.forward_ms:.3g} ms, backward {cost.backward_ms:.3g} ms.{peak}"
    )
    trace = " <code>trace.json</code> beside this page shows every call in Perfetto (ui.perfetto.dev).</p>"
    listed = _table("operators", ("operator", "calls", "own ms", "GPU ms", "allocates, net"), operators)
    return f"{head}{trace}{_table('modules', header, rows)}<h3>Operators</h3>{listed}"


def _batches(report: "Report") -> str:
    rows = [
        (
            batch.title,
            batch.node_count,
            batch.edge_count,
            batch.digest,
            ", ".join(str(list(shape)) for shape in batch.shapes),
            ", ".join(f"{name} {count}" for name, count in batch.calls.items()),
            batch.first,
            few(batch.blame),
        )
        for batch in report.batches
    ]
    header = (
        "batch",
        "nodes",
        "edges",
        "fingerprint",
        "tensors",
        "calls of modules",
        "first difference",
        "drawn by",
    )
    return _table("graphs", header, rows)


def _numerics(report: "Report") -> str:
    parts = []
    for entry in report.comparisons:
        first = f"; first differs: <b>{escape(entry.first)}</b>" if entry.first else ""
        note = f" <span class='dim'>{escape(entry.note)}</span>" if entry.note else ""
        head = f"{escape(entry.title)}, within {entry.tolerance:g}{first}{note}"
        rows = [(one.name, one.call, one.absolute, one.relative) for one in entry.modules]
        rows += [(f"gradient of {one.name}", "", one.absolute, one.relative) for one in entry.gradients]
        header = ("module", "call", "largest difference", "relative to the largest value")
        opened = " open" if entry.first else ""
        table = _table(f"way-{entry.way}", header, rows)
        parts.append(f"<details{opened}><summary>{head}</summary>{table}</details>")
    return "".join(parts)
