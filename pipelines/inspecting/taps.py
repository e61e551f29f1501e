"""What modules are given and give in one computation of a step, to be compared with another's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.inspecting.trail import NETWORK, hooked
from pipelines.nested import floats


@dataclass
class Tap:
    """The tensors that a call of a module was given or gave."""

    module: str
    given: bool
    tensors: list[Tensor]


@dataclass
class Computed:
    """One computation of a step, on the CPU."""

    taps: list[Tap]
    """In the order in which they happened."""
    gradients: dict[str, Tensor]
    loss: float
    is_part: bool = False
    """Whether calls of modules are left out, as they were not made by all ranks."""


def compute(
    network: nn.Module, replica: nn.Module, loss: Callable[[Any, Any], Tensor], batch: Any, weight: float = 1.0
) -> Computed:
    """Computes loss and gradients of `replica`, which wraps `network`, and takes down what its modules do."""
    seen: list[tuple[str, bool, Any]] = []
    handles: list[Any] = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(_takes(seen, name or NETWORK)))
        handles.append(module.register_forward_hook(_gives(seen, name or NETWORK)))
    with hooked(handles):
        value = loss(replica, batch) * weight
        value.backward()
    taps = [Tap(name, given, [_plain(tensor) for tensor in tensors]) for name, given, tensors in seen]
    gradients = {name: _plain(weight.grad) for name, weight in network.named_parameters() if weight.grad is not None}
    return Computed(taps, gradients, float(value.detach()))


def _takes(seen: list[tuple[str, bool, Any]], name: str) -> Callable[..., None]:
    def see(module: nn.Module, inputs: Any) -> None:
        seen.append((name, True, [tensor.detach().clone() for tensor in floats(inputs)]))

    return see


def _gives(seen: list[tuple[str, bool, Any]], name: str) -> Callable[..., None]:
    def see(module: nn.Module, inputs: Any, outputs: Any) -> None:
        seen.append((name, False, [tensor.detach().clone() for tensor in floats(outputs)]))

    return see


def _plain(tensor: Tensor) -> Tensor:
    """Gives a tensor that another process can be sent."""
    return tensor.detach().to("cpu", torch.float32)
