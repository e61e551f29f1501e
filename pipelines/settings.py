"""The flags that every task has; standard library only."""

from dataclasses import dataclass
from typing import ClassVar, Literal

Schedule = Literal["constant", "onecycle", "cosine", "wsd"]
OLD_WORDS = {"amp": ("no", "bf16"), "compile": ("no", "yes")}
"""What False and True meant, by which earlier runs say whether."""


@dataclass(frozen=True)
class Settings:
    """How a model learns; every task's Config extends this and sets its own defaults."""

    PATHS: ClassVar[tuple[str, ...]] = ("data",)
    """Fields that name files or folders; made absolute, so that workers with other working folders find them."""
    epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 64
    """Examples per optimizer step, over all workers together."""
    lr: float = 1e-3
    """Learning rate; the peak where the schedule has one."""
    seed: int = 0
    """Fixes splits, order, augmentation, dropout and initial weights."""
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adam"
    """Rule that turns gradients into steps."""
    schedule: Schedule = "constant"
    """How the learning rate moves over the run."""
    warm_up: float = -1.0
    """Share of the steps in which the rate rises; -1 takes the schedule's own: onecycle 0.25, wsd 0.05, others 0."""
    cool_down: float = 0.2
    """Share of the steps, at the end, in which wsd's rate falls."""
    momentum: float = 0.0
    """Momentum of sgd and rmsprop."""
    weight_decay: float = 0.0
    """L2 penalty; decoupled with adamw."""
    dropout: float = 0.0
    """Share of activations dropped while training, 0 to below 1."""
    early_stopping: int = 0
    """Epochs without a better validation metric before the run stops and the best is restored; 0 never stops."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    accumulate: int = 1
    """Micro-batches per optimizer step; the batch size stays the same."""
    micro_batch: Literal["auto"] | int = 0
    """Most examples a worker computes at a time: as many micro-batches a step as that needs; auto finds what fits
    the memory, 0 leaves it to --accumulate."""
    amp: Literal["no", "bf16", "fp16"] = "no"
    """Numbers of the forward pass: float32, bfloat16, or float16 with a scaled loss."""
    compile: Literal["no", "yes", "auto"] = "no"
    """Whether torch.compile compiles the network; auto measures a few steps of both, where the run is long enough."""
    channels_last: Literal["no", "yes", "auto"] = "no"
    """Whether the weights of convolutions lie with their channels last; auto measures a few steps of both."""
    recompute: bool = False
    """Whether the backward pass computes activations again rather than keeping them: less memory, more time."""
    shard: bool = False
    """Whether each worker holds its share of weights and optimizer state alone, for models that outgrow one GPU."""
    ema: float = 0.0
    """How much of the averaged weights stays at each step, such as 0.999; they are what is evaluated and written.
    0 takes the weights as they are."""
    deterministic: bool = False
    """Whether only kernels that give the same bits every time are used; on GPUs it costs speed."""
    tf32: Literal["default", "no", "yes"] = "default"
    """Whether GPUs round float32 to 10 bits in matrix products and convolutions; by default in convolutions alone."""
    guards: bool = True
    """Skips steps whose loss or gradient is not finite, and does more when that does not help; --no-guards does not."""
    guard_window: int = 64
    """Steps after which the guards count the skipped ones among them."""
    guard_skips: int = 3
    """Skipped steps of a window that are put up with; more, and the rate is halved."""
    guard_halvings: int = 1
    """Times the rate is halved before the run goes back to a checkpoint."""
    guard_rollbacks: int = 1
    """Times a run goes back to its last good checkpoint before it stops."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        for name, words in OLD_WORDS.items():
            if isinstance(getattr(self, name), bool):
                object.__setattr__(self, name, words[getattr(self, name)])
        lows = {"epochs": 1, "batch_size": 1, "early_stopping": 0, "accumulate": 1, "seed": 0}
        lows |= {"guard_window": 1, "guard_skips": 0, "guard_halvings": 0, "guard_rollbacks": 0}
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; the least allowed is {low}")
        for name in ("lr", "weight_decay", "clip", "momentum"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; it must be finite and not negative")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.accumulate > self.batch_size:
            raise ValueError(f"--accumulate is {self.accumulate}; it must not exceed the batch size {self.batch_size}")
        self._check_speed()

    def _check_speed(self) -> None:
        if not (self.warm_up == -1 or 0 <= self.warm_up < 1):
            raise ValueError(
                f"--warm-up is {self.warm_up}; it must be at least 0 and below 1, or -1 for the schedule's own"
            )
        if not 0 <= self.cool_down <= 1 - max(0.0, self.warm_up):
            raise ValueError(f"--cool-down is {self.cool_down}; with --warm-up it must be 0 to 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"--ema is {self.ema}; it must be at least 0 and below 1")
        if self.micro_batch != "auto" and self.micro_batch < 0:
            raise ValueError(f"--micro-batch is {self.micro_batch}; it must be auto, 0 or more")
        if self.micro_batch and self.accumulate > 1:
            raise ValueError(
                f"--micro-batch and --accumulate {self.accumulate} both say how a batch is split; give one"
            )
        if self.recompute and self.compile != "no":
            raise ValueError(
                f"--recompute does not go with --compile {self.compile}, which decides itself what to keep; give one"
            )
        if self.shard:
            for name in ("compile", "channels_last", "micro_batch"):
                if getattr(self, name) in ("yes", "auto"):
                    value = f"{_flag(name)} {getattr(self, name)}"
                    raise ValueError(f"--shard does not go with {value}; leave one of them out")


@dataclass(frozen=True)
class Launch:
    """Where a run happens and what becomes of it; changes nothing in what is learned."""

    local: bool = False
    """Whether to train in this process, without Ray."""
    workers: int | str = 1
    """Ray Train workers, each with a copy of the model; FEWEST:MOST, as 2:4, lets their number follow the cluster."""
    gpu: bool = False
    """Whether each worker (or this process) uses a GPU."""
    threads: int = 0
    """CPU threads per worker; 0 shares this machine's cores among the workers."""
    checkpoint_steps: int = 0
    """Steps between checkpoints within an epoch; 0 writes them at the ends of epochs."""
    keep: int = 2
    """Newest checkpoints to keep, besides the best."""
    storage: str = ""
    """Folder, s3://BUCKET/... or gs://BUCKET/... below which the run's folder is copied; empty copies nowhere."""
    resume_anyway: bool = False
    """Whether to resume with other settings, code or data than the run began with; what follows is then another run."""
    run_dir: str = ""
    """Folder of the run's checkpoints, journal and artifact; empty makes one under runs/."""
    resume: str = ""
    """Folder of an earlier run to continue."""
    promote: Literal["gate", "always", "never"] = "gate"
    """Whether the new version becomes champion; gate: if it beats the champion on the same test examples."""
    margin: float = 0.0
    """What the gate wants the primary metric to be ahead by: the interval of the difference must lie above it."""
    slice_margin: float = 0.02
    """What the gate lets the metric fall by on a slice of the test examples, such as a class or a language."""
    confidence: float = 0.95
    """Confidence of the gate's intervals, above 0.5 and below 1."""
    max_failures: int = 3
    """Times that workers may be lost before the run gives up; -1 sets no limit. A preempted worker is not counted."""
    max_errors: int = 0
    """Times that an error of the training code itself is tried again before the run gives up; -1 sets no limit."""
    resize_seconds: float = 30.0
    """Seconds between looks at the cluster for room for more workers, with --workers FEWEST:MOST."""
    wait: bool = False
    """Whether to wait for processors or GPUs that the cluster lacks now, instead of being refused."""

    tracker_patience: float = 60.0
    """Seconds that the command waits, after training, for an MLflow that is away; then `eagerly record` is needed."""
    tensorboard: bool = True
    """Writes TensorBoard's event files to the run's folder; --no-tensorboard does not."""
    wandb: Literal["no", "offline", "online"] = "no"
    """Whether the run also goes to Weights & Biases, or to its files for `wandb sync`; needs the package wandb."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        _check_workers(self.workers)
        if not 0 <= self.tracker_patience < float("inf"):
            raise ValueError(f"--tracker-patience is {self.tracker_patience}; it must be finite and not negative")
        for name in ("max_failures", "max_errors"):
            if getattr(self, name) < -1:
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; it must be 0 or more, or -1 for no limit")
        if not 1 <= self.resize_seconds < float("inf"):
            raise ValueError(f"--resize-seconds is {self.resize_seconds}; the least allowed is 1")
        if self.threads < 0:
            raise ValueError(f"--threads is {self.threads}; it must be 0 or more")
        if self.checkpoint_steps < 0:
            raise ValueError(f"--checkpoint-steps is {self.checkpoint_steps}; it must be 0 or more")
        if self.keep < 1:
            raise ValueError(f"--keep is {self.keep}; the least allowed is 1")
        if "://" in self.storage and not self.storage.startswith(("s3://", "gs://", "file:///")):
            raise ValueError(f"--storage is {self.storage!r}; it must be a folder, s3://BUCKET/... or gs://BUCKET/...")
        if self.resume_anyway and not self.resume:
            raise ValueError("--resume-anyway goes with --resume RUN_DIR")
        self._check_gate()
        if self.local and self.most > 1:
            raise ValueError(f"--local trains in one process; --workers is {self.workers} and needs Ray or torchrun")
        if self.resume and self.run_dir:
            raise ValueError("--resume continues in its own folder; leave out --run-dir")

    @property
    def fewest(self) -> int:
        """Least number of workers with which the run goes on."""
        return int(str(self.workers).partition(":")[0])

    @property
    def most(self) -> int:
        """Number of workers that the run takes if the cluster has room."""
        return int(str(self.workers).rpartition(":")[2])

    def _check_gate(self) -> None:
        for name in ("margin", "slice_margin"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; it must be finite and not negative")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"--confidence is {self.confidence}; it must be above 0.5 and below 1")


def _check_workers(workers: int | str) -> None:
    parts = str(workers).split(":")
    if len(parts) > 2 or not all(part.lstrip("-").isdigit() for part in parts):
        raise ValueError(f"--workers is {workers!r}; it must be a number, or FEWEST:MOST such as 2:4")
    low, high = int(parts[0]), int(parts[-1])
    if low < 1:
        raise ValueError(f"--workers is {workers}; the least allowed is 1")
    if low > high:
        raise ValueError(f"--workers is {workers}; the fewest, {low}, must not exceed the most, {high}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
