"""torchvision's classifiers and the weights to start them from; torchvision is imported only when called."""

import difflib
from pathlib import Path

from torch import Tensor, nn

EXTRA_OUTPUTS = ("googlenet", "inception_v3")
"""Networks that answer with more than logits while training."""


def names() -> list[str]:
    """Lists the classifiers of torchvision that this task can train."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if name not in EXTRA_OUTPUTS]


def build(arch: str, class_count: int) -> nn.Module:
    """Builds an untrained torchvision classifier whose last layer tells `class_count` classes apart."""
    from torchvision import models

    if arch not in names():
        near = difflib.get_close_matches(arch, names(), n=1) or ["resnet18"]
        raise ValueError(
            f"unknown --arch {arch!r}: it is neither convnet, article nor a torchvision classifier such as {near[0]}"
        )
    network = models.get_model(arch)
    head = _head(network)
    parent = network.get_submodule(head.rpartition(".")[0])
    setattr(parent, head.rpartition(".")[2], _resized(network.get_submodule(head), class_count))
    return network


def _resized(layer: nn.Module, class_count: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, class_count)
    assert isinstance(layer, nn.Conv2d)
    return nn.Conv2d(layer.in_channels, class_count, kernel_size=1)


def _head(network: nn.Module) -> str:
    """Finds the last layer that makes features into classes; squeezenet's is a convolution."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    return linear[-1] if linear else list(layers)[-1]


def start_from(network: nn.Module, pretrained: str, arch: str) -> None:
    """Loads weights into a network's body, all but a last layer that tells other classes apart.

    `pretrained` is `default` for torchvision's own, or a safetensors file of a state dict, torchvision's or
    that of a model folder. Raises ValueError when they cannot be had or do not fit.
    """
    body = network.get_submodule("body")
    state = _downloaded(arch) if pretrained == "default" else _read(Path(pretrained))
    own = body.state_dict()
    head = _head(body)
    kept = {name: value for name, value in state.items() if not name.startswith(head + ".")}
    needed = {name for name in own if not name.startswith(head + ".")}
    wrong = sorted(needed ^ set(kept)) or [name for name in sorted(needed) if kept[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"--pretrained {pretrained!r} does not fit --arch {arch}: {wrong[0]!r} is missing, unknown or of another"
            f" shape ({len(wrong)} such tensors)"
        )
    if all(name in state and state[name].shape == own[name].shape for name in own if name.startswith(head + ".")):
        kept = state
    body.load_state_dict(kept, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"--pretrained {str(path)!r} is not a readable safetensors file ({error}); give one, or `default`"
        ) from None
    return {name.removeprefix("body."): value for name, value in state.items() if name not in ("mean", "std")}


def _downloaded(arch: str) -> dict[str, Tensor]:
    from torchvision import models

    try:
        return dict(models.get_model_weights(arch)["DEFAULT"].get_state_dict(check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"torchvision's weights for {arch} could not be downloaded ({error});"
            " give a safetensors file with --pretrained"
        ) from None
