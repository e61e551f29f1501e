"""What each replica takes of a cluster; standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.scaling import Scaling


@dataclass(frozen=True)
class Resources:
    """Where models are computed."""

    gpu: bool = False
    """Computes the models on GPUs."""
    gpus_per_replica: float = 0.0
    """GPUs that each replica takes with --gpu: 1, or a share such as 0.5, so that replicas share one; 0 is 1."""

    def __post_init__(self) -> None:
        """Raises ValueError for a share that cannot be, or is of no use."""
        if not 0 <= self.gpus_per_replica <= 1:
            allowed = "above 0 and at most 1, as a model computes on one GPU"
            raise ValueError(f"--gpus-per-replica is {self.gpus_per_replica}; it must be {allowed}")
        if self.gpus_per_replica and not self.gpu:
            raise ValueError("--gpus-per-replica needs --gpu; give both or neither")

    @property
    def device(self) -> str:
        """The device that models are moved to, in torch's words; Ray shows a process none but its own GPU."""
        return "cuda" if self.gpu else "cpu"

    @property
    def share(self) -> float:
        """How much of a GPU a replica takes."""
        return (self.gpus_per_replica or 1.0) if self.gpu else 0.0

    def check(self, processes: int, there: float) -> None:
        """Raises ValueError when the cluster lacks the GPUs of that many processes, which would wait for ever.

        there: the cluster's GPUs.
        """
        if self.gpu and not there:
            raise ValueError("--gpu: the cluster has no GPU; leave out --gpu to compute on CPUs")
        # As many as fit on one GPU share it, and no more: Ray gives no replica parts of two.
        needed = -(-processes // int(1 / self.share)) if self.gpu else 0
        if needed > there:
            raise ValueError(
                f"--gpu: {processes} processes that each take {self.share:g} of a GPU need {needed} GPUs, and the "
                f"cluster has {there:g}; ask for fewer or a smaller --gpus-per-replica"
            )


@dataclass(frozen=True)
class Hardware:
    """What an endpoint takes of the cluster."""

    scaling: Scaling = field(default_factory=Scaling)
    resources: Resources = field(default_factory=Resources)
    cpus: float = 0.0
    """CPUs that each process reserves."""
    apart: Mapping[str, int] = field(default_factory=dict)
    """Tasks whose networks live in processes of their own, and in how many."""

    def is_light(self, tasks: set[str]) -> bool:
        """Whether the endpoint's replicas compute no network of these tasks themselves."""
        return bool(tasks) and tasks <= set(self.apart)

    def actor(self, is_light: bool = False) -> dict[str, float]:
        """Says what a process takes, in Ray's words; a light one needs no GPU."""
        return {"num_cpus": self.cpus, "num_gpus": 0 if is_light else self.resources.share}

    def check(self, tasks: set[str], there: float) -> None:
        """Raises ValueError when the cluster lacks the GPUs, with the number there."""
        processes = sum(self.apart.values()) + (0 if self.is_light(tasks) else self.scaling.replicas)
        self.resources.check(processes, there)
