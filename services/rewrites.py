"""Networks that compute the same as another and share its weights, but take a CPU or GPU less time.

A rewrite copies the modules and no tensor, then gives some modules weights of their own. Nothing is done to the
network it is given.
"""

import copy
import io
import itertools
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from services.paths import is_on_cpu

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECORDED = 1e-4
"""Most that a recorded network's outputs may differ from its own, absolutely and as a share."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Packed(nn.Linear):
    """A linear layer whose weights lie as oneDNN wants them, which the plain one would ask for at each call.

    Inductor puts the same two operators in a plain one's place when it compiles. On a CPU only.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        """Packs the weights of a layer as dtype, in which it will then compute and answer."""
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = linear.weight, linear.bias  # for those who read them
        self._dtype = dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), None)
        self._packed_bias = linear.bias.detach().to(dtype) if has_bias else None

    def forward(self, input: Tensor) -> Tensor:
        """Computes the layer."""
        return torch.ops.mkldnn._linear_pointwise(
            input.to(self._dtype), self._packed, self._packed_bias, "none", [], ""
        )


class PackedConvolution(nn.Conv2d):
    """A 2d convolution with the ReLU after it, if any, whose weights lie as oneDNN wants them.

    Its output keeps a pixel's channels together. On a CPU only.
    """

    def __init__(self, convolution: nn.Conv2d, rectifies: bool, dtype: torch.dtype) -> None:
        """Packs the weights of a layer as dtype, in which it will then compute and answer, rectified or not."""
        form = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
        sizes = (convolution.in_channels, convolution.out_channels, convolution.kernel_size)
        has_bias = convolution.bias is not None
        super().__init__(*sizes, *form, bias=has_bias, device="meta")  # type: ignore[arg-type]
        self.weight, self.bias = convolution.weight, convolution.bias  # for those who read them
        self._rectifies, self._dtype = rectifies, dtype
        stride, padding, dilation, groups = form
        self._form = (padding, stride, dilation, groups, "relu" if rectifies else "none", [], "")
        plain = convolution.weight.detach().to(dtype).contiguous().to_mkldnn()
        self._packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(plain, padding, stride, dilation, groups)
        self._packed_bias = None if convolution.bias is None else convolution.bias.detach().to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Computes the layer; the plain way where the other takes no such input."""
        if input.dim() != 4 or not input.numel():
            output = super().forward(input.to(self.weight.dtype))
            return output.relu() if self._rectifies else output
        packed = self._packed, self._packed_bias
        return torch.ops.mkldnn._convolution_pointwise(input.to(self._dtype), *packed, *self._form)


def packed(network: nn.Module) -> nn.Module | None:
    """Folds batch norms into the convolutions before them, packs these with ReLUs after them, and linear layers.

    None when there are none of these.
    """
    twin = _twin(network)
    count = _fold(twin) + _pack(twin, torch.float32) + _pack_convolutions(twin, torch.float32)
    return twin if count else None


def channels_last(network: nn.Module) -> nn.Module | None:
    """Does what `packed` does and has 2d convolutions keep a pixel's channels together; None when there are none."""
    if not any(type(module) is nn.Conv2d for module in network.modules()):
        return None
    twin = _twin(network)
    _fold(twin)
    _pack(twin, torch.float32)
    for one in twin.modules():
        if type(one) is nn.Conv2d:
            one.weight = _constant(one.weight.detach().contiguous(memory_format=torch.channels_last))
    return twin


def bfloat16(network: nn.Module) -> nn.Module | None:
    """Does what the others do and multiplies in bfloat16, which keeps 8 bits of 24; answers stay float32.

    None when there are neither linear layers nor convolutions.
    """
    twin = channels_last(network) or _twin(network)
    count = _pack(twin, torch.bfloat16) + _pack_convolutions(twin, torch.bfloat16)
    for module in twin.modules():
        plain = type(module) is nn.Linear or type(module) in CONVOLUTIONS
        if plain and module.weight.dtype == torch.float32:  # type: ignore[union-attr]
            _narrow(module)
            count += 1
    twin.register_forward_hook(_widen)
    return twin if count else None


def traced(network: nn.Module) -> nn.Module | None:
    """Records what a network computes and compiles that with TorchScript, for one whose `trials()` says that it may be.

    Nothing of its Python is left, so a branch on data would be lost: a network without `trials` is never recorded. None
    for one, and unless all of it is on a CPU. Raises ValueError when the record gives other answers than the network
    for one of the trials.
    """
    if not hasattr(network, "trials") or not is_on_cpu(network):
        return None
    twin: Any = _twin(network)
    first, *others = twin.trials()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of its deprecation, and of sizes that become constants: hence the trials
        kept = io.BytesIO()
        torch.jit.save(torch.jit.trace(twin, first, check_trace=False, strict=False), kept)
        compiled = torch.jit.optimize_for_inference(_read(kept))
        for inputs in (first, *others):
            if not torch.allclose(compiled(*inputs), twin(*inputs), rtol=RECORDED, atol=RECORDED):
                raise ValueError(f"recorded with {len(first[0])} rows, it answers otherwise for {len(inputs[0])}")
    twin.forward = compiled.forward
    return twin


def scripted(network: nn.Module) -> nn.Module | None:
    """Compiles the network with TorchScript, its branches and loops included.

    Twice: with weights as they lie for a row alone, and laid out for oneDNN for batches, which a row does not repay. A
    compiled network is one call, in which Python's lock is free from its first operator to its last: an eager one
    waits for the lock after each. Its modules stay, for those who read them. None unless all of it is on a CPU, since
    a GPU's fusers would compile in the middle of a call. Raises RuntimeError or OSError for Python that TorchScript
    does not know.

    What is frozen stays in memory, weights and all, as long as the unit that it was compiled in: Python's own unit
    never ends, one that is read from bytes ends with its network.
    """
    if not is_on_cpu(network):
        return None
    twin = _twin(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its deprecation, and of modules that were initialised in unusual ways
        kept = io.BytesIO()
        torch.jit.save(torch.jit.script(twin), kept)
        alone = torch.jit.freeze(_read(kept))
        batched = torch.jit.optimize_for_inference(_read(kept))

    def forward(*inputs: Any, **named: Any) -> Any:
        rows = inputs[0] if inputs else None
        is_alone = isinstance(rows, Tensor) and rows.dim() > 0 and len(rows) == 1
        return (alone if is_alone else batched)(*inputs, **named)

    twin.forward = forward
    return twin


def _read(kept: io.BytesIO) -> torch.jit.ScriptModule:
    """Reads a compiled network back into a unit of its own."""
    kept.seek(0)
    return torch.jit.load(kept).eval()


def _twin(network: nn.Module) -> nn.Module:
    """Copies modules and shares their tensors."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()


def _fold(twin: nn.Module) -> int:
    """Folds batch norms that follow a convolution in a Sequential; returns how many."""
    count = 0
    for parent in twin.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for before, after in itertools.pairwise(list(parent._modules)):
            convolution, norm = parent._modules[before], parent._modules[after]
            if type(convolution) not in CONVOLUTIONS or type(norm) not in NORMS or not norm.track_running_stats:
                continue
            if _is_watched(convolution) or _is_watched(norm):
                continue
            parent._modules[before] = fuse_conv_bn_eval(convolution, norm)  # type: ignore[type-var]
            parent._modules[after] = nn.Identity()
            count += 1
    return count


def _places(twin: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Lists modules with their parents and names, so that they can be replaced; none where there is no oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return []
    return [(parent, name, child) for parent in twin.modules() for name, child in parent.named_children()]


def _pack(twin: nn.Module, dtype: torch.dtype) -> int:
    """Packs linear layers of float32 on a CPU, packed ones anew when dtype is another; returns how many."""
    count = 0
    for parent, name, child in _places(twin):
        if not isinstance(child, nn.Linear) or type(child) not in (nn.Linear, Packed) or _is_watched(child):
            continue
        if child.weight.device.type == "cpu" and child.weight.dtype == torch.float32:
            setattr(parent, name, Packed(child, dtype))
            count += 1
    return count


def _pack_convolutions(twin: nn.Module, dtype: torch.dtype) -> int:
    """Packs 2d convolutions of float32 on a CPU as dtype, with ReLUs that follow in a Sequential; returns how many."""
    count = 0
    for parent, name, child in _places(twin):
        if _is_packable(child):
            after = _rectifier(parent, name) if isinstance(parent, nn.Sequential) else None
            setattr(parent, name, PackedConvolution(child, after is not None, dtype))  # type: ignore[arg-type]
            if after is not None:
                setattr(parent, after, nn.Identity())
            count += 1
    return count


def _is_packable(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or _is_watched(module) or isinstance(module.padding, str):
        return False
    return (
        module.padding_mode == "zeros" and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32
    )


def _rectifier(parent: nn.Sequential, name: str) -> str | None:
    """Finds the ReLU that does nothing but follow a layer, if there is one."""
    names = list(parent._modules)
    for after in names[names.index(name) + 1 :]:
        module = parent._modules[after]
        if module is None or _is_watched(module) or type(module) not in (nn.Identity, nn.ReLU):
            return None
        if type(module) is nn.ReLU:
            return after
    return None


def _narrow(module: Any) -> None:
    """Has a layer compute in bfloat16."""
    module.weight = _constant(module.weight.detach().bfloat16())
    if module.bias is not None:
        module.bias = _constant(module.bias.detach().bfloat16())
    module.register_forward_pre_hook(_narrow_input)


def _narrow_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].bfloat16(), *inputs[1:])


def _widen(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) and output.dtype == torch.bfloat16 else output


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _is_watched(module: nn.Module) -> bool:
    """Whether hooks would be lost, or would see something else than they do."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
