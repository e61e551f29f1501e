"""How an endpoint is set; standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Where an endpoint listens and what it takes."""

    host: str = "127.0.0.1"
    """Address of the gRPC port."""
    port: int = 9000
    """gRPC port; 0 takes a free one."""
    metrics_port: int = 9090
    """Port of Prometheus metrics; 0 takes a free one."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics port, apart so that metrics stay private when gRPC is public."""
    max_message_bytes: int = 4 * 1024 * 1024
    """Largest request."""
    max_items: int = 1024
    """Most items a call."""
    max_batch: int = 64
    """Most items computed together."""
    max_waiting: int = 4096
    """Most items waiting for a model; more are refused."""
    threads: int = 1
    """CPU threads a model computes with."""
    drain_s: float = 20.0
    """Seconds that calls in flight have to end when the endpoint stops."""
    max_connection_age_s: float = 0.0
    """Seconds after which a client is asked to connect anew, so that connections spread; 0 never asks."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        for name in ("port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 to 65535")
        for name in ("max_message_bytes", "max_items", "max_batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; the least allowed is 1")
        for name in ("drain_s", "max_connection_age_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be finite, 0 or more")
        if self.max_waiting < self.max_items:
            raise ValueError(f"--max-waiting is {self.max_waiting}; it must be at least --max-items, {self.max_items}")
