"""Where a worker stands among the others; standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where this worker stands among the others, and on what it computes."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    threads: int = 1

    @property
    def is_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.startswith("cuda")
