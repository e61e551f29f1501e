"""One optimizer step: rates from a counter, gradients averaged by share, numbers left on the device.

Where guards are on, a step whose loss or gradient is not finite is skipped: on a GPU by the fused optimizer itself,
which reads the verdict on the device, so that the host never waits; elsewhere by this process.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import batches, memory, numerics, sharding
from pipelines.averaging import Average
from pipelines.examples import Draw, Split, step_seed
from pipelines.replica import held, rejoin
from pipelines.schedules import rate
from pipelines.settings import Settings

NOTHING = nullcontext()


def optimizer(config: Settings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Makes the optimizer the settings name; fused kernels where PyTorch has them."""
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        made = torch.optim.SGD(groups, momentum=config.momentum, fused=is_fused(config), **shared)
        if config.momentum:  # PyTorch makes them in the first step, and leaves them unwritten when that is skipped
            for parameter in parameters_of(made):
                made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return made
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=config.momentum, **shared)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, fused=True, **shared)


def is_fused(config: Settings) -> bool:
    """Says whether PyTorch has a fused kernel for the optimizer; SGD's does not take weights in shares."""
    return config.optimizer != "rmsprop" and not (config.optimizer == "sgd" and config.shard)


def parameters_of(made: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Lists what an optimizer moves."""
    return [parameter for group in made.param_groups for parameter in group["params"]]


def seed_generators(device: torch.device, seed: int) -> None:
    """Seeds what dropout draws from on the CPU and on a device, as torch.manual_seed does a hundred times slower."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        at = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[at].manual_seed(seed)


class Stepper:
    """Takes optimizer steps, the same on every rank."""

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor],
        groups: list[dict[str, Any]],
        config: Settings,
        device: torch.device,
        rank: int,
        world: int,
    ) -> None:
        """Makes the optimizer and, for float16, the gradient scaler."""
        self.network, self.loss, self.config = network, loss, config
        self.rank, self.world, self.device = rank, world, device
        self.optimizer = optimizer(config, groups)
        self.parameters = parameters_of(self.optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.autocast = numerics.autocast(config, device)
        self.scaler = numerics.scaler(config, device)
        self.accumulate = config.accumulate
        """Micro-batches of a step."""
        self.average: Average | None = None
        self.pieces = 1
        """How many each micro-batch is cut into for want of memory."""
        self.factor = 1.0
        """What the guards have made of the learning rate."""
        self.norms: list[Tensor] = []
        """The gradient's norm at each step since they were last taken; not finite where the step was skipped."""
        self.skips_on_device = config.guards and is_fused(config) and device.type != "cpu"
        self._zero, self._one = torch.zeros((), device=device), torch.ones((), device=device)
        self._reducing = False
        kinds = {(type(parameter), parameter.dtype) for parameter in self.parameters}
        self._alike = len(kinds) == 1 and not any(hasattr(one, "full_tensor") for one in self.parameters)

    def step(self, split: Split, batch_B: Tensor, draw: Draw, step: int, total: int) -> Tensor:
        """Learns from this rank's share of a global batch, given on the device.

        Returns the share's part of the loss, a scalar on the device: its mean over ranks is the batch's loss.
        Raises memory.Exhausted when this rank alone cannot make the step fit into memory.
        """
        factor = rate(self.config.schedule, step, total, self.config.warm_up, self.config.cool_down) * self.factor
        for group, base in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = base * factor
        while (loss := self._learn(split, batch_B, draw, step)) is None:
            self.pieces = self._more_pieces(len(batch_B))
        self.norms.append(self._apply(loss))
        if self.average:
            self.average.update(step)
        return loss

    def leave_out(self) -> Tensor:
        """Passes over a batch; its loss is not a number."""
        self.norms.append(self._zero)
        return self._zero + math.nan

    def take_norms(self) -> list[Tensor]:
        """Gives the norms since the last call."""
        taken, self.norms = self.norms, []
        return taken

    def _learn(self, split: Split, batch_B: Tensor, draw: Draw, step: int) -> Tensor | None:
        """Computes the gradient of a batch; None when memory did not suffice, by now freed."""
        for parameter in self.parameters:
            parameter.grad = None
        try:
            return self._accumulate(split, batch_B, draw, step)
        except (RuntimeError, MemoryError) as problem:
            if not memory.is_short(problem):
                raise
            if not self._recovers_alone():
                raise memory.Exhausted(self._more_pieces(len(batch_B))) from problem
        return None

    def _more_pieces(self, examples: int) -> int:
        """Doubles the pieces that micro-batches of such a global batch are cut into; says so if they cannot be."""
        return memory.more_pieces(self.pieces, -(-examples // (self.world * self.accumulate)))

    def _recovers_alone(self) -> bool:
        """Says whether this rank may take its share again: others wait for one average of the gradients, not for two.

        DDP with a static graph, and FSDP, count on every forward pass.
        """
        if self.world == 1:
            return True
        ddp = isinstance(self.network, DistributedDataParallel)
        return ddp and not self.network.static_graph and not self._reducing

    def micro_batches(self, batch_B: Tensor) -> list[tuple[Tensor, float]]:
        """Lists this rank's micro-batches of a global batch, each with the weight of its mean loss."""
        micro_batches = batches.share(batch_B, self.accumulate, self.rank, self.world)
        return batches.cut(micro_batches, self.pieces) if self.pieces > 1 else micro_batches

    def _accumulate(self, split: Split, batch_B: Tensor, draw: Draw, step: int) -> Tensor | None:
        micro_batches = self.micro_batches(batch_B)
        self._reducing, loss = False, None
        for number, (own_B, weight) in enumerate(micro_batches, 1):
            seed_generators(self.device, self.seed(step, number - 1))
            last = number == len(micro_batches)
            with held(self.network, last) if self.world > 1 else NOTHING:
                with self.autocast():
                    part = self.loss(self.network, split.batch(own_B, draw)).float()
                value, self._reducing = part.detach(), last and self.world > 1
                part.backward(self._slope(value, weight))
            value = value if weight == 1.0 else value * weight
            loss = value if loss is None else loss + value
        self._reducing = False
        return loss

    def seed(self, step: int, number: int) -> int:
        """Numbers the micro-steps of a run; pieces of a micro-batch draw as further ranks would."""
        own, piece = divmod(number, self.pieces)
        counter = step * self.accumulate + own
        return step_seed(self.config.seed, counter, self.rank + piece * self.world)

    def _slope(self, loss: Tensor, weight: float) -> Tensor | None:
        """Gives what the gradient starts from, None for 1: the loss's weight, but NaN where the loss is not finite.

        The gradient then is not finite either, on every rank once it is averaged: all decide alike.
        """
        if self.config.guards:
            return self.scaler.scale(torch.add(self._one if weight == 1.0 else self._one * weight, loss, alpha=0.0))
        return self.scaler.scale(torch.full_like(loss, weight)) if weight != 1.0 or self.scaler.is_enabled() else None

    def _apply(self, loss: Tensor) -> Tensor:
        """Takes the step, unless guards forbid it; returns the gradient's norm, 0 where nobody asked."""
        config, norm = self.config, self._zero
        if config.clip or config.guards:
            self.scaler.unscale_(self.optimizer)
            norm = self._norm()
        if config.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, config.clip, norm)
        if self.scaler.is_enabled():
            norm = self._beyond_scaling(norm, loss)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.skips_on_device:
            found_inf, fused = (~norm.isfinite()).float(), self.optimizer
            fused.found_inf, fused.grad_scale = found_inf, None  # type: ignore[attr-defined]
            fused.step()
            del fused.found_inf, fused.grad_scale  # type: ignore[attr-defined]
        elif not config.guards or math.isfinite(norm.item()):
            self.optimizer.step()
        return norm

    def _norm(self) -> Tensor:
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if grads and self._alike:
            norms = torch._foreach_norm(grads)  # type: ignore[attr-defined]  # half of get_total_norm's time
            return torch.linalg.vector_norm(torch.stack(norms))
        norm = nn.utils.get_total_norm(grads) if grads else self._zero
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]

    def _beyond_scaling(self, norm: Tensor, loss: Tensor) -> Tensor:
        """Passes over what a smaller scale of float16 will mend, which the scaler sees to by itself."""
        scale = self.scaler.scale(torch.ones_like(norm))
        mended = ~norm.isfinite() & loss.isfinite() & (scale > 1)
        return torch.where(mended, self._zero, norm)

    def undo_halvings(self, skips: int) -> None:
        """Brings float16's scale back to what it was before steps that no scale would have mended; to 1 at least."""
        if skips and self.scaler.is_enabled():
            scale = self.scaler.scale(self._one) * self.scaler.get_backoff_factor() ** -min(skips, 100)
            self.scaler.update(scale.clamp(min=1.0))

    def averaged(self) -> AbstractContextManager[Any]:
        """Lets the network be its average for a while, where there is one; every rank enters together."""
        return self.average.shown() if self.average else nullcontext()

    def state(self) -> dict[str, Any]:
        """Gives what a checkpoint needs to go on, on rank 0; rates and dropout follow from counters."""
        state = {"scaler": self.scaler.state_dict(), "pieces": self.pieces}
        if self.average:
            state["average"] = self.average.state()
        return {"optimizer": sharding.optimizer_state(self.network, self.optimizer), **state}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state."""
        sharding.load_optimizer(self.network, self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.pieces = max(self.pieces, state.get("pieces", 1))
        self.network = rejoin(self.network, self.accumulate * self.pieces)
        if self.average:
            self.average.restore(state["average"])
