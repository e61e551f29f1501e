"""The autograd graph of one loss as the data drew it: nodes, edges, shapes, and what each keeps for the backward pass.

Nodes stand in the order in which the forward pass made them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.inspecting.trail import LEAF, Call, Origin, Trail


@dataclass
class Node:
    """A step of the backward pass, made by a step of the forward pass."""

    number: int
    """Place in the order of the forward pass, from 1."""
    name: str
    """Such as AddmmBackward0, or `weight` for where a parameter takes in its gradient."""
    origin: Origin
    shapes: list[tuple[int, ...]]
    """Of what the forward step gave."""
    dtype: str
    saved: list[str] = field(default_factory=list)
    """What is kept for the backward pass, such as `mat1 [64, 32]`."""
    saved_bytes: int = 0
    """Memory kept by this node that no parameter and no earlier node holds anyway."""
    inputs: list[int] = field(default_factory=list)
    """Numbers of the nodes from which the forward step took what needs gradients."""
    parameter: str = ""
    """Full name of the parameter, where the node is one."""

    @property
    def module(self) -> str:
        """The module that made it, or that holds the parameter."""
        return self.origin.call.module


@dataclass
class Graph:
    """A loss's whole graph."""

    nodes: list[Node]
    saved_bytes: int
    """Of all tensors that autograd keeps, parameters not counted."""

    @property
    def edge_count(self) -> int:
        """How many edges there are."""
        return sum(len(node.inputs) for node in self.nodes)


def walk(loss: Tensor) -> list[Any]:
    """Lists a loss's nodes as autograd has them, in the order they were made, parameters right before their use."""
    if loss.grad_fn is None:
        raise ValueError("the loss has no autograd graph: no parameter of the network needs a gradient")
    seen, waiting = {loss.grad_fn}, [loss.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    placed: dict[Any, None] = {}
    for node in sorted((node for node in seen if node._sequence_nr() != LEAF), key=lambda node: node._sequence_nr()):
        for leaf, _ in node.next_functions:
            if leaf is not None and leaf._sequence_nr() == LEAF:
                placed[leaf] = None
        placed[node] = None
    return list(placed)


def read(loss: Tensor, network: nn.Module, trail: Trail) -> tuple[Graph, dict[Any, Node]]:
    """Reads a loss's graph before its backward pass; also tells which of autograd's nodes is which."""
    parameters = {id(parameter): name for name, parameter in network.named_parameters(remove_duplicate=False)}
    held = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    found = walk(loss)
    numbers = {node: number for number, node in enumerate(found, 1)}
    nodes: dict[Any, Node] = {}
    saved_before = set(held)
    for node in found:
        entry = _node(node, numbers[node], parameters, trail)
        entry.inputs = [numbers[other] for other, _ in node.next_functions if other is not None]
        for label, tensor in _saved(node):
            place = tensor.untyped_storage().data_ptr()
            entry.saved.append(f"{label} {list(tensor.shape)}" + (", a weight" if place in held else ""))
            if place not in saved_before:
                saved_before.add(place)
                entry.saved_bytes += tensor.untyped_storage().nbytes()
        nodes[node] = entry
    return Graph(list(nodes.values()), sum(node.saved_bytes for node in nodes.values())), nodes


def _node(node: Any, number: int, parameters: dict[int, str], trail: Trail) -> Node:
    if node._sequence_nr() == LEAF:
        name = parameters.get(id(node.variable), "a leaf that is no parameter")
        module = name.rpartition(".")[0] or "(network)"
        variable = node.variable
        origin = Origin(Call(module))
        return Node(number, name.rpartition(".")[2], origin, [tuple(variable.shape)], _dtype(variable), parameter=name)
    given = [meta for meta in node._input_metadata or () if meta is not None]
    shapes = [tuple(int(side) for side in meta.shape) for meta in given]
    dtype = str(given[0].dtype).removeprefix("torch.") if given else ""
    return Node(number, node.name().rpartition("::")[2], trail.origin(node._sequence_nr()), shapes, dtype)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _saved(node: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields what a node keeps, by name; what was changed in place since cannot be read and is passed over."""
    names = [name for name in dir(node) if name.startswith("_saved_")]
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        names.append("saved_tensors")
    for name in names:
        try:
            value = getattr(node, name)
        except RuntimeError:
            continue
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if isinstance(tensor, Tensor):
                yield name.removeprefix("_saved_"), tensor
