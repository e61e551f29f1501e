"""Activations computed again in the backward pass rather than kept (Chen et al., 2016), with the very same results."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(network: nn.Module, patterns: tuple[str, ...]) -> list[nn.Module]:
    """Lists the modules that a network is made of, one after the other.

    `patterns` are names as `named_modules` gives them, with * for any letters: a task's `BLOCKS`. Without them, the
    members of the outermost ModuleLists and Sequentials. Raises ValueError for a pattern that fits no module.
    """
    modules = dict(network.named_modules())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise ValueError(f"BLOCKS of train.py names {pattern!r}, and no module of the network is called so")
    if patterns:
        return [module for name, module in modules.items() if any(fnmatchcase(name, one) for one in patterns)]
    return [member for row in _rows(network) for member in row]


def _rows(network: nn.Module) -> list[nn.Sequential | nn.ModuleList]:
    if isinstance(network, nn.Sequential | nn.ModuleList):
        return [network]
    return [row for child in network.children() for row in _rows(child)]


def recompute(network: nn.Module, patterns: tuple[str, ...]) -> int:
    """Makes a network keep the inputs of its blocks alone while it learns; returns how many blocks those are.

    Without a task's BLOCKS, a Sequential is cut into runs of as many members as there are runs. A network that
    has no blocks is one block, which saves no memory.
    """
    rows = [] if patterns else _rows(network)
    chosen = blocks(network, patterns) if patterns else []
    for row in rows:
        chosen += row if isinstance(row, nn.ModuleList) else []
    if not chosen and not rows:
        chosen = [network]
    for block in chosen:
        block.forward = _forgetful(block.forward, [block])
    segments = [_cut(row) for row in rows if isinstance(row, nn.Sequential)]
    return len(chosen) + sum(segments)


def _cut(row: nn.Sequential) -> int:
    members = list(row)
    size = max(1, round(math.sqrt(len(members))))
    parts = [members[at : at + size] for at in range(0, len(members), size)]
    calls = [_forgetful(_run(part), part) for part in parts]

    def forward(value: Any) -> Any:
        for call in calls:
            value = call(value)
        return value

    row.forward = forward  # type: ignore[method-assign]
    return len(parts)


def _run(part: list[nn.Module]) -> Callable[[Any], Any]:
    def forward(value: Any) -> Any:
        for member in part:
            value = member(value)
        return value

    return forward


def _forgetful(forward: Callable[..., Any], modules: list[nn.Module]) -> Callable[..., Any]:
    """Wraps a forward pass so that its activations are computed again; dropout draws the same the second time."""

    def call(*inputs: Any, **named: Any) -> Any:
        if not (torch.is_grad_enabled() and modules[0].training):
            return forward(*inputs, **named)
        calls = 0

        def run(*inputs: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            with nullcontext() if calls == 1 else _spare(modules):
                return forward(*inputs, **named)

        return checkpoint(run, *inputs, use_reentrant=False, **named)

    return call


@contextmanager
def _spare(modules: list[nn.Module]) -> Iterator[None]:
    """Gives modules copies of their buffers for a while, lest running statistics take a batch in twice."""
    owners = [owner for module in modules for owner in module.modules() if owner._buffers]
    kept = [dict(owner._buffers) for owner in owners]
    for owner, buffers in zip(owners, kept, strict=True):
        owner._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for owner, buffers in zip(owners, kept, strict=True):
            owner._buffers.update(buffers)
