"""Places boxes in layers, each below all that it takes from, as Sugiyama, Tagawa and Toda describe (1981).

A box's layer is the longest way to it from above; edges that span layers bend at waypoints; the order within a layer
follows the mean place of the neighbours, swept down and up a few times.
"""

from dataclasses import dataclass, field
from itertools import pairwise

GAP_X, GAP_Y, WAYPOINT = 18.0, 34.0, 6.0
SWEEPS = 6


@dataclass
class Box:
    """A thing to draw."""

    lines: list[str]
    width: float
    height: float
    colour: str = "#fff"
    title: str = ""
    """Shown when pointed at."""
    link: str = ""
    is_bad: bool = False
    is_weight: bool = False
    x: float = 0.0
    """Of its middle."""
    y: float = 0.0
    """Of its upper side."""


@dataclass
class Drawing:
    """Boxes with their places, and edges as points to draw lines through."""

    boxes: list[Box]
    paths: list[list[tuple[float, float]]]
    back: list[tuple[int, int]]
    """Edges that lead upwards, as where a loop was folded."""
    width: float = 0.0
    height: float = 0.0


@dataclass
class _Grid:
    sizes: list[float]
    layers: list[list[int]] = field(default_factory=list)
    above: dict[int, list[int]] = field(default_factory=dict)
    below: dict[int, list[int]] = field(default_factory=dict)


def arrange(boxes: list[Box], edges: list[tuple[int, int]]) -> Drawing:
    """Places boxes; edges are pairs of places in `boxes`, from what gives to what takes."""
    forward = sorted({(start, end) for start, end in edges if start < end})
    layer = _layers(len(boxes), forward, {at for at, box in enumerate(boxes) if box.is_weight})
    grid = _Grid([box.width for box in boxes])
    grid.layers = [[] for _ in range(max(layer, default=0) + 1)]
    for at, depth in enumerate(layer):
        grid.layers[depth].append(at)
    chains = [_chain(grid, layer, start, end) for start, end in forward]
    for sweep in range(SWEEPS):
        _sweep(grid, down=sweep % 2 == 0)
    x = _coordinates(grid)
    tops, height = [], 0.0
    for members in grid.layers:
        tops.append(height)
        height += max([boxes[at].height for at in members if at < len(boxes)], default=0.0) + GAP_Y
    for at, box in enumerate(boxes):
        box.x, box.y = x[at], tops[layer[at]]
    paths = [_path(boxes, chain, x, tops, layer) for chain in chains]
    width = max((box.x + box.width / 2 for box in boxes), default=0.0)
    return Drawing(boxes, paths, [edge for edge in edges if edge[0] >= edge[1]], width, max(0.0, height - GAP_Y))


def _layers(count: int, edges: list[tuple[int, int]], weights: set[int]) -> list[int]:
    """Gives each box its layer; weights, and what is made of weights alone, stand right above what first takes them."""
    layer = [0] * count
    below: dict[int, list[int]] = {}
    sources = set(range(count)) - {end for start, end in edges if start not in weights}
    for start, end in edges:
        below.setdefault(start, []).append(end)
    for start in range(count):
        for end in below.get(start, []):
            layer[end] = max(layer[end], layer[start] + 1)
    for at in sorted(sources, reverse=True):
        layer[at] = min((layer[end] for end in below.get(at, [])), default=layer[at] + 1) - 1
    highest = min(layer, default=0)
    return [depth - highest for depth in layer]


def _chain(grid: _Grid, layer: list[int], start: int, end: int) -> list[int]:
    """Puts waypoints into the layers that an edge passes; gives all it passes through."""
    chain = [start]
    for depth in range(layer[start] + 1, layer[end]):
        point = len(grid.sizes)
        grid.sizes.append(WAYPOINT)
        grid.layers[depth].append(point)
        chain.append(point)
    chain.append(end)
    for upper, lower in pairwise(chain):
        grid.below.setdefault(upper, []).append(lower)
        grid.above.setdefault(lower, []).append(upper)
    return chain


def _sweep(grid: _Grid, down: bool) -> None:
    """Orders each layer by the mean place of its neighbours in the layer before."""
    near = grid.above if down else grid.below
    place = {at: order for members in grid.layers for order, at in enumerate(members)}
    for members in grid.layers if down else grid.layers[::-1]:
        means = {at: _mean([place[other] for other in near.get(at, [])], place[at]) for at in members}
        members.sort(key=lambda at: means[at])
        place |= {at: order for order, at in enumerate(members)}


def _coordinates(grid: _Grid) -> dict[int, float]:
    """Gives the middles: near those of the neighbours, without overlap, none left of 0."""
    x: dict[int, float] = {}
    for members in grid.layers:
        _pack(members, dict.fromkeys(members, 0.0), grid.sizes, x)
    for sweep in range(2 * SWEEPS):
        near = grid.above if sweep % 2 == 0 else grid.below
        for members in grid.layers if sweep % 2 == 0 else grid.layers[::-1]:
            wanted = {at: _mean([x[other] for other in near.get(at, [])], x[at]) for at in members}
            _pack(members, wanted, grid.sizes, x)
    left = min((x[at] - size / 2 for at, size in enumerate(grid.sizes) if at in x), default=0.0)
    return {at: value - left for at, value in x.items()}


def _pack(members: list[int], wanted: dict[int, float], sizes: list[float], x: dict[int, float]) -> None:
    """Places a layer's members in order, as near to where they are wanted as their widths allow.

    Pushed from the left alone a layer would lean to the right, from the right alone to the left: the middle is taken.
    """
    right, left = {}, {}
    edge = float("-inf")
    for at in members:
        right[at] = max(wanted[at], edge + sizes[at] / 2)
        edge = right[at] + sizes[at] / 2 + GAP_X
    edge = float("inf")
    for at in reversed(members):
        left[at] = min(wanted[at], edge - sizes[at] / 2)
        edge = left[at] - sizes[at] / 2 - GAP_X
    for at in members:
        x[at] = (right[at] + left[at]) / 2


def _path(
    boxes: list[Box], chain: list[int], x: dict[int, float], tops: list[float], layer: list[int]
) -> list[tuple[float, float]]:
    start, end = boxes[chain[0]], boxes[chain[-1]]
    points = [(start.x, start.y + start.height)]
    points += [(x[at], tops[layer[chain[0]] + step]) for step, at in enumerate(chain[1:-1], 1)]
    return [*points, (end.x, end.y)]


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
