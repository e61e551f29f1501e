"""How many examples a worker can compute at a time: tried out in doubling steps before the first step of training.

Shapes: B examples of a micro-batch.
"""

import os
import resource
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines import collectives, memory
from pipelines.passes import Workload

SHARE = 0.8
"""Of the free memory, how much passes may take: the rest is for evaluation and what else the process does."""
STATES = 3
"""Times the weights' memory that gradients and an optimizer's two moments take, which a trial lacks."""
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class Peak(TorchDispatchMode):
    """Follows how many bytes the tensors made under it hold at most; what kernels use inside is not seen."""

    def __init__(self) -> None:
        """Begins with none."""
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and counts the memory that its results brought."""
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._count(value)
        return made

    def _count(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def free_bytes(device: torch.device, neighbours: int) -> int:
    """Says how much memory a worker may still take: a GPU's, or its share of the machine's, cgroup's or ulimit's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    return min(_machine_bytes() // max(1, neighbours), _limit_bytes())


def _machine_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    found = [int(lines["MemAvailable"].split()[0]) * 1024]
    for most, used in CGROUPS:
        if Path(most).exists() and (text := Path(most).read_text().strip()) != "max":
            found.append(int(text) - int(Path(used).read_text()))
    return min(found)


def _limit_bytes() -> int:
    pages = [int(number) for number in Path("/proc/self/statm").read_text().split()]
    page = os.sysconf("SC_PAGE_SIZE")
    limits = ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5]))
    left = [resource.getrlimit(kind)[0] - used * page for kind, used in limits]
    free = [room for room, (kind, _) in zip(left, limits, strict=True) if resource.getrlimit(kind)[0] >= 0]
    return min(free, default=1 << 62)


def largest(network: nn.Module, work: Workload, neighbours: int) -> tuple[int, dict[str, Any]]:
    """Finds how many examples fit, the same on all ranks, and says in figures how that was found.

    Tries the longest examples there are, in doubling numbers, as long as what was seen so far lets the next fit:
    a CPU that runs out of memory kills the process. Raises ValueError when not even the smallest number fits.
    """
    most = -(-min(work.config.batch_size, len(work.split)) // work.place.world)
    weights = sum(weight.numel() * weight.element_size() for weight in network.parameters() if weight.requires_grad)
    limit = int(SHARE * free_bytes(work.device, neighbours)) - STATES * weights
    sizes = _doubling(most)
    peaks: dict[int, int] = {}
    with work.untouched(network):
        for size in sizes:
            if limit <= 0 or (peaks and _foretold(peaks, size) > limit):
                break
            peak = _peak(network, work, size)
            if peak is None or peak > limit:
                break
            peaks[size] = peak
    fitting = max(peaks, default=0)
    agreed = _least(fitting, work)
    if not agreed:
        raise ValueError(
            f"--micro-batch auto: {sizes[0]} examples of this network do not fit the {max(0, limit) >> 20} MiB that "
            "are free for them; use --recompute, --shard, a smaller network or a machine with more memory"
        )
    return agreed, {"examples": agreed, "peak_bytes": peaks[agreed], "limit_bytes": limit, "tried": len(peaks)}


def _doubling(most: int) -> list[int]:
    """Lists the sizes that a share can be split into, halving; two examples at least, which batch norm needs."""
    sizes = [most]
    while sizes[-1] > 2:
        sizes.append(max(2, -(-sizes[-1] // 2)))
    return sorted(set(sizes))


def _foretold(peaks: dict[int, int], size: int) -> float:
    """Foretells a peak from the two before it as if memory grew with the examples."""
    known = sorted(peaks)[-2:]
    if len(known) == 1:
        return peaks[known[0]] * size / known[0]
    slope = (peaks[known[1]] - peaks[known[0]]) / (known[1] - known[0])
    return peaks[known[1]] + slope * (size - known[1])


def _peak(network: nn.Module, work: Workload, size: int) -> int | None:
    """Measures the most bytes of one pass; None when it does not fit."""
    index_B = _longest(work, size)
    try:
        if work.device.type == "cuda":
            before = torch.cuda.memory_allocated(work.device)
            torch.cuda.reset_peak_memory_stats(work.device)
            work.run(network, index_B)
            return torch.cuda.max_memory_allocated(work.device) - before
        with Peak() as peak:
            work.run(network, index_B)
        return peak.most
    except (RuntimeError, MemoryError) as problem:
        if not memory.is_short(problem):
            raise
        torch.cuda.empty_cache()
        return None


def _longest(work: Workload, size: int) -> Tensor:
    lengths_N = work.split.lengths
    if lengths_N is None:
        return torch.arange(min(size, len(work.split)))
    return lengths_N.cpu().argsort(descending=True, stable=True)[:size]


def _least(size: int, work: Workload) -> int:
    """Gives the smallest of all ranks' sizes."""
    found = torch.zeros(work.place.world, dtype=torch.float64, device=work.device)
    found[work.place.rank] = size
    return int(collectives.sum_over_ranks(found, work.place.world).min())
