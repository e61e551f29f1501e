"""How large values are, forward and backward, and where they first stop being finite.

Shapes: B examples of the batch.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.inspecting import graph
from pipelines.inspecting.graph import Graph, Node
from pipelines.inspecting.subject import Subject
from pipelines.inspecting.trail import LOSS, NETWORK, Call, Origin, Trail, Watcher, hooked
from pipelines.nested import floats, is_broken, is_finite, tensors

MOST_ALONE = 64
"""Examples that are tried one by one, to find those that spoil a batch."""


@dataclass
class Layer:
    """What came out of a module, over all of its calls, and what gradients came back."""

    module: str
    kind: str
    activations: list[float] = field(default_factory=list)
    """Euclidean norm of what each call gave."""
    largest: float = 0.0
    """Largest absolute value."""
    zeros: float = 0.0
    """Share of zeros in what the last call gave."""
    gradients: list[float] = field(default_factory=list)
    """Norm of the loss's gradient by what each call gave, the last call first."""
    weights: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """Norms of each parameter of its own, and of its gradient; None where it got none."""


@dataclass
class Break:
    """The first place where values stop being finite."""

    direction: str
    """forward or backward"""
    origin: Origin
    kind: str
    """The module's class."""
    where: str
    """What there stopped being finite: an operator, or a node of the graph."""
    nan_count: int
    infinite_count: int
    count: int
    examples: list[str] = field(default_factory=list)
    """Whose values they are."""


@dataclass
class Values:
    """What one forward and backward pass shows."""

    graph: Graph
    loss: float
    layers: list[Layer]
    forward: Break | None
    backward: Break | None
    spoiled: list[str]
    """Weights and data that were not finite to begin with."""


class _Seen(Watcher):
    """Takes norms of what modules give, and notes what is not finite, in the order in which it happens."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        self.layers = layers
        self.outputs: dict[Any, list[str]] = {}
        self.bad_calls: list[tuple[Call, Tensor]] = []
        self.bad_operators: list[tuple[Origin, Tensor, bool]] = []
        self._open: list[Call] = []

    def enter(self, call: Call, module: nn.Module, inputs: Any) -> None:
        self._open.append(call)
        for tensor in floats(inputs):
            if is_broken(tensor):
                self.bad_calls.append((self._open[-2] if len(self._open) > 1 else Call(LOSS), tensor.detach()))

    def leave(self, call: Call, module: nn.Module, outputs: Any) -> None:
        self._open.pop()
        layer = self.layers[call.module]
        found = [tensor.detach().float() for tensor in floats(outputs)]
        if found:
            layer.activations.append(_norm(found))
            layer.largest = max([layer.largest, *(float(tensor.abs().amax()) for tensor in found if tensor.numel())])
            layer.zeros = float((found[0] == 0).float().mean()) if found[0].numel() else 0.0
        self.bad_calls += [(call, tensor) for tensor in found if not bool(tensor.isfinite().all())]
        for tensor in floats(outputs):
            if tensor.grad_fn is not None:
                self.outputs.setdefault(tensor.grad_fn, []).append(call.module)

    def operate(self, origin: Origin, arguments: Any, result: Any) -> None:
        with torch._C.DisableTorchFunction():
            for tensor in floats(result):
                if not bool(tensor.detach().isfinite().all()):
                    clean = all(bool(given.detach().isfinite().all()) for given in floats(arguments))
                    self.bad_operators.append((origin, tensor.detach(), clean))


class _Backward:
    """Takes norms of gradients at the nodes of the graph, in the order of the backward pass."""

    def __init__(self, nodes: dict[Any, Node], outputs: dict[Any, list[str]], layers: dict[str, Layer]) -> None:
        self.nodes, self.outputs, self.layers = nodes, outputs, layers
        self.first: tuple[Node, Tensor] | None = None
        self._clean: dict[Any, bool] = {}

    def hooks(self) -> list[Any]:
        handles = [node.register_prehook(self._before(node)) for node in self.nodes]
        return handles + [node.register_hook(self._after(node)) for node in self.nodes]

    def _before(self, node: Any) -> Any:
        def see(gradients: Any) -> None:
            found = [tensor.detach().float() for tensor in gradients if tensor is not None]
            self._clean[node] = all(bool(tensor.isfinite().all()) for tensor in found)
            for module in self.outputs.get(node, []) if found else []:
                self.layers[module].gradients.append(_norm(found))

        return see

    def _after(self, node: Any) -> Any:
        def see(given: Any, taken: Any) -> None:
            if self.first is not None or not self._clean.get(node, True):
                return
            found = [tensor.detach() for tensor in given if tensor is not None]
            bad = [tensor for tensor in found if not bool(tensor.isfinite().all())]
            self.first = (self.nodes[node], bad[0]) if bad else None

        return see


def measure(subject: Subject) -> Values:
    """Runs the step forward and backward and takes norms; weights stay as they are."""
    with subject.rehearsal() as network:
        kinds = {name or NETWORK: type(module).__name__ for name, module in network.named_modules()}
        layers = {name: Layer(name, kind) for name, kind in kinds.items()}
        seen = _Seen(layers)
        with Trail(network, seen) as trail:
            loss = subject.loss()
        drawn, nodes = graph.read(loss, network, trail)
        backward = _Backward(nodes, seen.outputs, layers)
        with hooked(backward.hooks()):
            loss.backward()
        for name, weight in network.named_parameters():
            module, _, own = name.rpartition(".")
            if not weight.requires_grad:
                continue
            gradient = None if weight.grad is None else _norm([weight.grad.float()])
            layers[module or NETWORK].weights[own] = (_norm([weight.detach().float()]), gradient)
    values = Values(
        drawn, float(loss.detach()), [layer for layer in layers.values() if layer.activations], None, None, []
    )
    values.spoiled = _spoiled(subject)
    values.forward = _forward_break(subject, seen, bool(loss.isfinite()), kinds)
    if backward.first is not None:
        node, tensor = backward.first
        kind = kinds.get(node.module, "")
        values.backward = _break(subject, "backward", node.origin, kind, node.name, tensor)
    return values


def _forward_break(subject: Subject, seen: _Seen, loss: bool, kinds: dict[str, str]) -> Break | None:
    """Names the first module that gave what is not finite, unless it was a mask that nothing came of."""
    found = [(call, tensor) for call, tensor in seen.bad_calls if not loss or bool(tensor.isnan().any())]
    strict = [entry for entry in found if is_broken(entry[1])] or found
    if not strict:
        if loss or not seen.bad_operators:
            return None
        strict = [(Call(LOSS), next(tensor for origin, tensor, _ in seen.bad_operators if origin.call.module == LOSS))]
    call, tensor = strict[0]
    origin = _culprit(seen, call, bool(tensor.isnan().any()))
    return _break(subject, "forward", origin, kinds.get(call.module, ""), origin.operator or "its output", tensor)


def _culprit(seen: _Seen, call: Call, is_nan: bool) -> Origin:
    """Finds the operator in a call that made finite values not finite, or else the first that gave such values."""
    own = [entry for entry in seen.bad_operators if entry[0].call == call]
    exact = [origin for origin, tensor, clean in own if clean and (bool(tensor.isnan().any()) or not is_nan)]
    clean = [origin for origin, _, clean in own if clean]
    return [*exact, *clean, *(origin for origin, _, _ in own), Origin(call)][0]


def _break(subject: Subject, direction: str, origin: Origin, kind: str, where: str, tensor: Tensor) -> Break:
    counts = int(tensor.isnan().sum()), int(tensor.isinf().sum()), tensor.numel()
    return Break(direction, origin, kind, where, *counts, _examples(subject, tensor, direction == "backward"))


def _examples(subject: Subject, tensor: Tensor, backward: bool) -> list[str]:
    """Names the examples whose rows are not finite, or else those that spoil the step when taken alone."""
    count = len(subject.names)
    if tensor.dim() and len(tensor) == count:
        bad_B = ~tensor.isfinite().reshape(count, -1).all(1).cpu()
        if not bool(bad_B.all()) or count == 1:
            return [subject.names[at] for at in bad_B.nonzero().flatten().tolist()]
    alone = [at for at in range(min(count, MOST_ALONE)) if _spoils(subject, subject.index[at : at + 1], backward)]
    return [subject.names[at] for at in alone]


def _spoils(subject: Subject, index_B: Tensor, backward: bool) -> bool:
    with subject.rehearsal() as network:
        network.eval()  # batch statistics of one example say nothing
        try:
            loss = subject.loss(index_B)
            if backward and loss.requires_grad:
                loss.backward()
        except (ValueError, RuntimeError):  # a network that takes no single example
            return False
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        return not is_finite([loss.detach(), *gradients])


def _spoiled(subject: Subject) -> list[str]:
    """Says which weights and which data are not finite to begin with."""
    found = []
    for name, weight in [*subject.network.named_parameters(), *subject.network.named_buffers()]:
        bad = int((~weight.detach().isfinite()).sum()) if weight.is_floating_point() else 0
        if bad:
            found.append(f"the weight {name} holds {bad} of {weight.numel()} numbers that are not finite")
    for number, tensor in enumerate(tensors(subject.batch()), 1):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            names = ""
            if tensor.dim() and len(tensor) == len(subject.names):
                bad_B = ~tensor.isfinite().reshape(len(tensor), -1).all(1).cpu()
                names = " in " + ", ".join(subject.names[at] for at in bad_B.nonzero().flatten().tolist()[:8])
            found.append(f"tensor {number} of the batch holds numbers that are not finite{names}")
    return found


def _norm(found: list[Tensor]) -> float:
    return float(torch.stack([tensor.double().norm() for tensor in found]).norm()) if found else 0.0
