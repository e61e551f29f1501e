"""One optimizer step: rates from a counter, gradients averaged by share, numbers left on the device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import batches
from pipelines.examples import Draw, Split, step_seed
from pipelines.schedules import rate
from pipelines.settings import Settings


def optimizer(config: Settings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Makes the optimizer the settings name; fused kernels where PyTorch has them."""
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, fused=True, **shared)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=config.momentum, **shared)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, fused=True, **shared)


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
        self.rank, self.world = rank, world
        self.optimizer = optimizer(config, groups)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        half = torch.bfloat16 if device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        if config.amp:
            self.autocast = lambda: torch.autocast(device.type, dtype=half)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp and half == torch.float16)
        self.device = device

    def step(self, split: Split, batch_B: Tensor, draw: Draw, step: int, total: int) -> Tensor:
        """Learns from this rank's share of a global batch.

        Returns the share's part of the loss, a scalar on the device: its mean over ranks is the batch's loss.
        """
        factor = rate(self.config.schedule, step, total)
        for group, base in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = base * factor
        self.optimizer.zero_grad(set_to_none=True)
        micro_batches = batches.share(batch_B, self.config.accumulate, self.rank, self.world)
        loss = torch.zeros((), device=self.device)
        for number, (own, weight) in enumerate(micro_batches):
            torch.manual_seed(step_seed(self.config.seed, step * self.config.accumulate + number, self.rank))
            last = number == len(micro_batches) - 1
            with self._quiet(last), self.autocast():
                part = self.loss(self.network, split.batch(own.to(self.device), draw)) * weight
            with self._quiet(last):
                self.scaler.scale(part).backward()
            loss += part.detach()
        self._apply()
        return loss

    def _quiet(self, last: bool) -> AbstractContextManager[Any]:
        """Holds back DDP's averaging until the last micro-batch."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    def _apply(self) -> None:
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Gives what a checkpoint needs to go on; rates and dropout follow from counters."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state."""
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, kept in self.optimizer.state.items():  # laid out in memory as they were, such as channels last
            for name, value in kept.items():
                if (
                    isinstance(value, Tensor)
                    and value.shape == parameter.shape
                    and value.stride() != parameter.stride()
                ):
                    kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        self.scaler.load_state_dict(state["scaler"])
