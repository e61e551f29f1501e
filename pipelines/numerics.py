"""With which numbers and kernels a run computes: half precision, deterministic kernels, TF32."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipelines.place import Place
from pipelines.settings import Settings
from pipelines.tasks import Task

Result = TypeVar("Result")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(config: Settings, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Gives what a forward pass runs in. Raises ValueError where the device lacks the numbers that --amp names."""
    if config.amp == "no":
        return nullcontext
    kind = TYPES[config.amp]
    if device.type == "cuda" and config.amp == "bf16" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"--amp is bf16, and {torch.cuda.get_device_name(device)} has no bfloat16; give --amp fp16")
    return lambda: torch.autocast(device.type, dtype=kind)


def scaler(config: Settings, device: torch.device) -> torch.amp.GradScaler:
    """Gives what scales float16's loss, lest small gradients be rounded to 0 (Micikevicius et al., 2018)."""
    return torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")


@contextmanager
def chosen(config: Settings, device: torch.device) -> Iterator[None]:
    """Sets PyTorch's switches as a run wants them, and back.

    Deterministic kernels need cuBLAS's workspace fixed before it is first used; where an operator has no such
    kernel, PyTorch raises a RuntimeError that names it.
    """
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    if config.deterministic:
        os.environ.setdefault(WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark = False
    if config.tf32 != "default" and device.type == "cuda":
        cudnn.allow_tf32 = matmul.allow_tf32 = config.tf32 == "yes"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def as_configured(run: Callable[..., Result]) -> Callable[..., Result]:
    """Lets a run of the loop compute with the switches that its settings want."""

    @functools.wraps(run)
    def call(task: Task, config: Settings, run_dir: Path, place: Place, *more: Any, **named: Any) -> Result:
        with chosen(config, torch.device(place.device)):
            return run(task, config, run_dir, place, *more, **named)

    return call
