"""Whether the graph changes from batch to batch, where it first does, and which examples draw it so.

Shapes: B examples of a batch.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

from pipelines.inspecting import graph
from pipelines.inspecting.graph import Graph, Node
from pipelines.inspecting.subject import Subject
from pipelines.inspecting.trail import Trail
from pipelines.nested import tensors

MOST_ALONE = 64
"""Examples that are drawn one by one, to find those that change the graph."""

Step = tuple[str, str, int, tuple[int, ...]]
"""What a node is: operator, module, which call of it, and how far back its inputs are; shapes do not count."""

Kind = tuple[str, str, int]
"""The same without its inputs, to look for it in another graph."""


@dataclass
class Batch:
    """The graph that one batch draws, beside the first one's."""

    title: str
    node_count: int
    edge_count: int
    digest: str
    shapes: list[tuple[int, ...]]
    """Of the batch's tensors."""
    calls: dict[str, int]
    """How often each module was called."""
    first: str = ""
    """The first node at which the graph differs, in words; empty where it is the same."""
    counts: str = ""
    """Modules that are called another number of times, such as `cell 6 -> 8 times`."""
    blame: list[str] = field(default_factory=list)
    """Examples that draw what is different even when taken alone; all that were tried, where the whole batch does."""
    lacks: bool = False
    """Whether these are examples of the step's batch, and what they draw is missing in this one."""
    tried: int = 0
    """Examples that were taken alone; of a large batch not all are."""
    example_count: int = 0
    """Of the batch that they are of."""


def compare(subject: Subject, others: list[Subject]) -> list[Batch]:
    """Draws the graph of the step and of others, and says where they differ from the step's.

    Returns an entry for each, the step's own first.
    """
    own, own_batch = _draw(subject)
    found = [own_batch]
    for other in others:
        drawn, batch = _draw(other)
        at = _first_difference(own, drawn)
        if at is not None:
            batch.first = _words(own, drawn, at)
            batch.counts = _counts(own_batch.calls, batch.calls)
            here, there = _kinds(own), _kinds(drawn)
            source, odd = (other, there - here) if there - here else (subject, here - there)
            batch.lacks = source is subject
            batch.example_count = len(source.index)
            batch.tried = min(len(source.index), MOST_ALONE)
            batch.blame = _blame(source, odd, batch.tried)
        found.append(batch)
    return found


def _draw(subject: Subject) -> tuple[Graph, Batch]:
    drawn, trail = _graph(subject, subject.index)
    shapes = [tuple(tensor.shape) for tensor in tensors(subject.batch())]
    print_of_steps = hashlib.sha256(repr([_step(node) for node in drawn.nodes]).encode()).hexdigest()[:8]
    calls = dict(Counter(call.module for call in trail.calls))
    return drawn, Batch(f"step {subject.step}", len(drawn.nodes), drawn.edge_count, print_of_steps, shapes, calls)


def _graph(subject: Subject, index_B: Tensor) -> tuple[Graph, Trail]:
    with subject.rehearsal() as network:
        with Trail(network) as trail:
            loss = subject.loss(index_B)
        return graph.read(loss, network, trail)[0], trail


def _step(node: Node) -> Step:
    back = tuple(node.number - other for other in node.inputs)
    return node.name, node.module, node.origin.call.number, back


def _first_difference(one: Graph, other: Graph) -> int | None:
    """Gives the place of the first node that differs; None where there is none."""
    for at, (left, right) in enumerate(zip(one.nodes, other.nodes, strict=False)):
        if _step(left) != _step(right):
            return at
    return None if len(one.nodes) == len(other.nodes) else min(len(one.nodes), len(other.nodes))


def _words(one: Graph, other: Graph, at: int) -> str:
    """Tells the nodes that stand there in both, the weights that they are about to take passed over."""
    here, there = (next((node for node in drawn.nodes[at:] if not node.parameter), None) for drawn in (one, other))
    return f"{_describe(there)}, here {_describe(here)}"


def _describe(node: Node | None) -> str:
    if node is None:
        return "nothing more"
    line = f" ({node.origin.line})" if node.origin.line else ""
    return f"node {node.number} is {node.name} of {node.module}, call {node.origin.call.number}{line}"


def _counts(one: dict[str, int], other: dict[str, int]) -> str:
    names = [name for name in {**one, **other} if one.get(name, 0) != other.get(name, 0)]
    return ", ".join(f"{name} {one.get(name, 0)} -> {other.get(name, 0)} times" for name in names)


def _blame(source: Subject, odd: set[Kind], count: int) -> list[str]:
    """Takes examples alone: those whose own graph holds the most of what is odd in their batch's have drawn it."""
    shared = [len(odd & _alone(source, source.index[at : at + 1])) for at in range(count)]
    most = max(shared)
    return [name for name, share in zip(source.names, shared, strict=False) if share == most] if most else []


def _alone(subject: Subject, index_B: Tensor) -> set[Kind]:
    try:
        return _kinds(_graph(subject, index_B)[0])
    except (ValueError, RuntimeError):  # a network that takes no single example
        return set()


def _kinds(drawn: Graph) -> set[Kind]:
    return {(node.name, node.module, node.origin.call.number) for node in drawn.nodes}
