"""Follows a forward pass: which module and which line of Python made each node of the autograd graph.

Autograd numbers the nodes of a thread in the order in which they are made. The numbers read before and after a
module's call, and before and after a line's call of an operator, tell which nodes are theirs.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

NETWORK, LOSS = "(network)", "(loss)"
"""What stands for the outermost module, and for what train.py computes outside of it."""
LEAF = (1 << 64) - 1
"""Number of the nodes that take in the gradients of parameters; they are made when first used."""
OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True)
class Call:
    """One call of a module, or what train.py does outside of all."""

    module: str = LOSS
    number: int = 1
    """The first call is 1."""


@dataclass(frozen=True)
class Origin:
    """Where nodes of the graph come from."""

    call: Call
    line: str = ""
    """Such as `parity/network.py:31 forward`."""
    operator: str = ""
    """What that line calls, such as `cross_entropy`."""


class Watcher:
    """What wants to know of a forward pass while it happens; each method may be left as it is."""

    def enter(self, call: Call, module: nn.Module, inputs: Any) -> None:
        """Sees what a module is given."""

    def leave(self, call: Call, module: nn.Module, outputs: Any) -> None:
        """Sees what a module gives."""

    def operate(self, origin: Origin, arguments: Any, result: Any) -> None:
        """Sees what an operator that Python code calls is given and gives."""


class Trail(TorchFunctionMode):
    """Remembers who made which nodes, while it is entered."""

    def __init__(self, network: nn.Module, watcher: Watcher | None = None, lines: bool = True) -> None:
        """Takes the network whose modules are to be told apart; without `lines` it hardly costs time."""
        super().__init__()
        self.lines = lines
        self.watcher = watcher or Watcher()
        self.names = {module: name or NETWORK for name, module in network.named_modules()}
        self.calls: list[Call] = []
        self._stack: list[tuple[Call, int]] = []
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._spans: list[tuple[int, int, Call]] = []
        self._made: dict[int, Origin] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Trail":
        """Starts to follow."""
        for module in self.names:
            self._hooks.append(module.register_forward_pre_hook(self._enter, prepend=True))
            self._hooks.append(module.register_forward_hook(self._leave))
        if self.lines:
            super().__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        """Ends to follow, and leaves no hook behind."""
        if self.lines:
            super().__exit__(*problem)
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls an operator and takes down the nodes that it makes."""
        first = _next_number()
        result = func(*args, **(kwargs or {}))
        origin = Origin(self.current, _line(sys._getframe(1)), getattr(func, "__name__", str(func)))
        for number in range(first, _next_number()):
            self._made[number] = origin
        self.watcher.operate(origin, (args, kwargs), result)
        return result

    @property
    def current(self) -> Call:
        """The innermost call under way."""
        return self._stack[-1][0] if self._stack else Call()

    def origin(self, number: int) -> Origin:
        """Says where the node of a number comes from."""
        if number in self._made:
            return self._made[number]
        inside = [(end - start, call) for start, end, call in self._spans if start <= number < end]
        return Origin(min(inside, key=lambda span: span[0])[1] if inside else Call())

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        name = self.names[module]
        self._counts[name] += 1
        call = Call(name, self._counts[name])
        with torch._C.DisableTorchFunction():
            self.watcher.enter(call, module, inputs)
        self.calls.append(call)
        self._stack.append((call, _next_number()))

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        call, start = self._stack.pop()
        self._spans.append((start, _next_number(), call))
        with torch._C.DisableTorchFunction():
            self.watcher.leave(call, module, outputs)


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Removes hooks when all is done."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _next_number() -> int:
    """Tells the number that autograd gives the next node of this thread."""
    return torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]


def _line(frame: FrameType | None) -> str:
    """Finds the line, outside of PyTorch, that a call came from."""
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    if frame is None:
        return ""
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
