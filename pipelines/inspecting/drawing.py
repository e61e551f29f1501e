"""Draws an autograd graph as SVG: node by node where it is small, else by module, the nodes of each in a part below."""

import itertools
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

from pipelines.inspecting.graph import Graph, Node
from pipelines.inspecting.layout import Box, Drawing, arrange
from pipelines.inspecting.trail import Call

FEW_BOXES, MOST_BOXES = 60, 150
"""Nodes that are drawn one by one at once, and the most boxes of a drawing that people can still read."""
LETTER, LINE, PADDING = 6.8, 14.0, 7.0
MARGIN = 14.0
HUE_STEP = 137.508
"""Degrees between hues, the golden angle, so that the hues of few modules lie apart."""


@dataclass
class Part:
    """Nodes that one call of a module made without a break."""

    call: Call
    nodes: list[Node] = field(default_factory=list)

    @property
    def kind(self) -> tuple[str, tuple[str, ...]]:
        """What is the same in parts that look alike."""
        return self.call.module, tuple(node.name for node in self.nodes if not node.parameter)


def draw(drawn: Graph, bad: set[Call]) -> str:
    """Gives HTML with the whole graph; `bad` are the calls in which values stop being finite."""
    is_small = len(drawn.nodes) <= MOST_BOXES
    if len(drawn.nodes) <= FEW_BOXES:
        return _svg(_of_nodes(drawn.nodes, drawn.nodes, bad))
    parts = split(drawn)
    folded = len(parts) > MOST_BOXES
    if folded:
        parts = _fold(parts)
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(part.kind for part in parts), 1)}
    words = "module, all of its calls together" if folded else "module, call by call"
    head = f"<p>{len(drawn.nodes)} nodes, drawn by {words}; a click on a box shows the nodes within.</p>"
    body = head + _svg(_of_parts(parts, kinds, bad)) + "".join(_details(parts, kinds, drawn, bad))
    if is_small:
        body += f"<details><summary>Node by node</summary>{_svg(_of_nodes(drawn.nodes, drawn.nodes, bad))}</details>"
    return body


def split(drawn: Graph) -> list[Part]:
    """Cuts a graph where another call of a module begins; a weight goes with what first takes it."""
    parts: list[Part] = []
    waiting: list[Node] = []
    for node in drawn.nodes:
        if node.parameter:
            waiting.append(node)
            continue
        if not parts or parts[-1].call != node.origin.call:
            parts.append(Part(node.origin.call))
        parts[-1].nodes += [*waiting, node]
        waiting = []
    return parts


def _fold(parts: list[Part]) -> list[Part]:
    folded: dict[str, Part] = {}
    for part in parts:
        folded.setdefault(part.call.module, Part(Call(part.call.module, 0))).nodes += part.nodes
    return list(folded.values())


def _of_nodes(nodes: list[Node], whole: list[Node], bad: set[Call]) -> Drawing:
    """Draws nodes, and in grey those outside that they take from."""
    inside = {node.number for node in nodes}
    outside = sorted({other for node in nodes for other in node.inputs} - inside)
    shown = sorted([*nodes, *(whole[number - 1] for number in outside)], key=lambda node: node.number)
    place = {node.number: at for at, node in enumerate(shown)}
    boxes = []
    for node in shown:
        lines = [f"{node.number} {short(node.name)}", shapes(node)]
        if node.number not in inside:
            boxes.append(_box(["from " + node.module, *lines], "#f3f3f3", ""))
            continue
        lines += [f"keeps {size(node.saved_bytes)}"] if node.saved_bytes else []
        title = f"{node.name} in {node.module}, {node.origin.line}\n" + "\n".join(node.saved)
        box = _box(lines, colour(node.module), title)
        box.is_bad, box.is_weight = node.origin.call in bad and not node.parameter, bool(node.parameter)
        boxes.append(box)
    edges = [(place[other], place[node.number]) for node in nodes for other in node.inputs]
    return arrange(boxes, edges)


def _of_parts(parts: list[Part], kinds: dict[tuple[str, tuple[str, ...]], int], bad: set[Call]) -> Drawing:
    place = {node.number: at for at, part in enumerate(parts) for node in part.nodes}
    boxes = []
    for part in parts:
        steps = [node for node in part.nodes if not node.parameter]
        count = f", call {part.call.number}" if part.call.number else ""
        kept = sum(node.saved_bytes for node in part.nodes)
        lines = [
            f"{part.call.module}{count}",
            f"{len(steps)} node{'s' * (len(steps) > 1)}, keeps {size(kept)}",
            shapes(steps[-1]),
        ]
        box = _box(lines, colour(part.call.module), "\n".join(node.name for node in steps[:40]))
        box.link = f"#part-{kinds[part.kind]}"
        box.is_bad = part.call in bad or (not part.call.number and any(call.module == part.call.module for call in bad))
        boxes.append(box)
    weights = {node.number for part in parts for node in part.nodes if node.parameter}
    taken = ((other, node.number) for part in parts for node in part.nodes for other in node.inputs)
    pairs = ((place[start], place[end]) for start, end in taken if start not in weights)
    return arrange(boxes, [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]])


def _details(
    parts: list[Part], kinds: dict[tuple[str, tuple[str, ...]], int], drawn: Graph, bad: set[Call]
) -> Iterable[str]:
    for kind, number in kinds.items():
        alike = [part for part in parts if part.kind == kind]
        calls = sorted({part.call.number for part in alike if part.call.number})
        named = f", calls {calls[0]} to {calls[-1]}, which are alike" if len(calls) > 1 else ""
        head = f"{kind[0]}{named}: {len(kind[1])} node{'s' * (len(kind[1]) > 1)}"
        body = "<p>Too many nodes to draw; the table lists them.</p>"
        if len(alike[0].nodes) <= MOST_BOXES:
            body = _svg(_of_nodes(alike[0].nodes, drawn.nodes, bad))
        yield f'<details id="part-{number}"><summary>{escape(head)}</summary>{body}</details>'


def _box(lines: list[str], fill: str, title: str) -> Box:
    width = max(len(line) for line in lines) * LETTER + 2 * PADDING
    return Box(lines, width, len(lines) * LINE + PADDING, fill, title)


def _svg(drawing: Drawing) -> str:
    width, height = drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN
    lines = [f'<path d="{_curve(path)}" class="edge"/>' for path in drawing.paths]
    for start, end in drawing.back:
        one, other = drawing.boxes[start], drawing.boxes[end]
        side = max(one.x + one.width / 2, other.x + other.width / 2) + 24
        points = f"M{one.x + one.width / 2:.1f},{one.y + 10:.1f} C{side:.1f},{one.y:.1f} {side:.1f},{other.y:.1f} "
        lines.append(f'<path d="{points}{other.x + other.width / 2:.1f},{other.y + 10:.1f}" class="edge back"/>')
    body = "".join(lines) + "".join(map(_drawn_box, drawing.boxes))
    view = f"{-MARGIN:.0f} {-MARGIN:.0f} {width + 30:.0f} {height:.0f}"
    sizes = f'width="{width + 30:.0f}" height="{height:.0f}" viewBox="{view}"'
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z"/></marker></defs>'
    )
    return f'<div class="graph"><svg xmlns="http://www.w3.org/2000/svg" {sizes} role="img">{arrow}{body}</svg></div>'


def _curve(points: list[tuple[float, float]]) -> str:
    text = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        middle = (y + to_y) / 2
        text += f" C{x:.1f},{middle:.1f} {to_x:.1f},{middle:.1f} {to_x:.1f},{to_y:.1f}"
    return text


def _drawn_box(box: Box) -> str:
    left = box.x - box.width / 2
    kind = "box bad" if box.is_bad else "box weight" if box.is_weight else "box"
    round_off = box.height / 2 if box.is_weight else 4
    text = "".join(
        f'<text x="{box.x:.1f}" y="{box.y + PADDING / 2 + LINE * (at + 0.75):.1f}">{escape(line)}</text>'
        for at, line in enumerate(box.lines)
    )
    shape = (
        f'<rect x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'rx="{round_off:.0f}" fill="{box.colour}"/>'
    )
    inner = f'<g class="{kind}"><title>{escape(box.title)}</title>{shape}{text}</g>'
    return f'<a href="{box.link}">{inner}</a>' if box.link else inner


def short(name: str) -> str:
    """Names the forward step of a node, such as Addmm for AddmmBackward0."""
    return re.sub(r"Backward\d*$", "", name)


def shapes(node: Node) -> str:
    """Writes the shapes of what a node's forward step gave, of many alike the number."""
    texts = [str(list(shape)) for shape in node.shapes]
    return f"{len(texts)} x {texts[0]}" if len(texts) > 1 and len(set(texts)) == 1 else ", ".join(texts)


def colour(module: str) -> str:
    """Gives a module its light colour, always the same."""
    return f"hsl({zlib.crc32(module.encode()) * HUE_STEP % 360:.0f},65%,88%)"


def size(count: float) -> str:
    """Writes bytes as people read them."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GiB"
