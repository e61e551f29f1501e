"""Weights and optimizer state in shares, of which each rank holds its own alone; checkpoints and artifacts hold all.

FSDP2 does the work (Rajbhandari et al., 2020; Zhao et al., 2023).
Every function here that gathers or spreads is called by all ranks together.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

WHOLE = ("network", "best", "optimizer", "average/weights")
"""The parts of a run's state that hold whole weights, which are spread from rank 0, one tensor at a time."""


def shard(network: nn.Module, blocks: list[nn.Module], device: torch.device, world: int) -> None:
    """Shares a network's weights out, block by block, so that one block at a time is whole on the device.

    The network may be on the CPU; its shares are on the device afterwards. What is not learned stays whole.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    ignored = {weight for weight in network.parameters() if not weight.requires_grad}
    for block in blocks:
        if block is not network and any(weight.requires_grad for weight in block.parameters()):
            fully_shard(block, mesh=mesh, ignored_params=ignored)
    fully_shard(network, mesh=mesh, ignored_params=ignored)


def is_sharded(network: nn.Module) -> bool:
    """Says whether `shard` was called on a network."""
    return hasattr(network, "set_requires_gradient_sync")


def forget_whole(network: nn.Module) -> None:
    """Frees what a sharded network has put together, after its shares were written to; nothing for a plain one.

    FSDP2 leaves the outermost weights whole after a forward pass, and the next one would compute with those.
    """
    for module in network.modules():
        if is_sharded(module):
            module.reshard()  # type: ignore[operator]


def local(value: Tensor) -> Tensor:
    """Gives this rank's share of a tensor, which it shares memory with; a plain tensor as it is."""
    return getattr(value, "to_local", lambda: value)()


def network_state(network: nn.Module) -> dict[str, Tensor]:
    """Gives a network's weights and buffers; of a sharded one the whole on rank 0's CPU, and nothing elsewhere."""
    if is_sharded(network):
        return _whole().get_model_state_dict(network, options=_gather())
    return network.state_dict()


def load_network(network: nn.Module, state: dict[str, Any], strict: bool = True) -> None:
    """Loads what `network_state` gave; of a sharded network, from rank 0's, of which a rank keeps its shares alone."""
    if not is_sharded(network):
        network.load_state_dict(state, strict=strict)
        return
    _whole().set_model_state_dict(network, dict(state), options=_spread(strict))  # it puts shares into what it is given


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Gives an optimizer's state; of a sharded network by the names of its weights, on rank 0 alone."""
    if is_sharded(network):
        return _whole().get_optimizer_state_dict(network, optimizer, options=_gather())
    return optimizer.state_dict()


def load_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what `optimizer_state` gave; of a sharded network, from rank 0's, of which a rank keeps its shares alone.

    That of a plain network, as one worker has, goes into shares too. A weight that was not used yet may lack one.
    A state that lies otherwise in memory than its weight is laid as the weight is: fused kernels pair them as they
    lie, so that channels-last weights would meet the wrong numbers.
    """
    if is_sharded(network):
        own = _whole().get_optimizer_state_dict(network, optimizer)
        for values in optimizer.state.values():  # made by a step with gradients of 0, which is to count as none
            for value in values.values():
                value.zero_()
        if own["state"]:  # SGD without momentum has none
            named = _by_name(own["param_groups"], state)
            _whole().set_optimizer_state_dict(network, optimizer, named, options=_spread(False))
        return
    optimizer.load_state_dict(state)
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _by_name(own: list[dict[str, Any]], state: dict[str, Any]) -> dict[str, Any]:
    """Gives the state of a plain network's optimizer by the names of its weights, as groups of its own have them.

    What is by names already stays as it is.
    """
    groups = state.get("param_groups", [])
    numbers = [number for group in groups for number in group["params"]]
    if not any(isinstance(number, int) for number in numbers):
        return state
    names = dict(zip(numbers, [name for group in own for name in group["params"]], strict=True))
    groups = [{**group, "params": [names[number] for number in group["params"]]} for group in groups]
    return {"state": {names[number]: values for number, values in state["state"].items()}, "param_groups": groups}


def whole_model(model: Any, make: Any, rank: int) -> Any:
    """Gives, on rank 0, a model like this one with a whole network on the CPU; `make()` makes an untrained one."""
    if not is_sharded(model.network):
        return model
    state = network_state(model.network)
    if rank:
        return model
    twin = copy.copy(model)
    twin.network = make().network
    twin.network.load_state_dict(state)
    return twin


def _whole() -> Any:
    from torch.distributed.checkpoint import state_dict

    return state_dict


def _gather() -> Any:
    return _whole().StateDictOptions(full_state_dict=True, cpu_offload=True)


def _spread(strict: bool) -> Any:
    return _whole().StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=strict)
