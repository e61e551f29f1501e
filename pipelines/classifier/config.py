"""The classifier's flags; standard library only."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.settings import Schedule, Settings

EPOCHS = {"digits": 20, "mnist": 8, "fashion-mnist": 15, "cifar10": 40, "": 30}
"""Passes over each built-in set where --epochs is not given; the empty name is a folder of one's own."""

SPACE = {
    "lr": "loguniform(5e-4, 5e-2)",
    "dropout": "uniform(0, 0.5)",
    "batch_size": "choice(64, 128, 256)",
    "weight_decay": "loguniform(1e-4, 0.1)",
    "label_smoothing": "uniform(0, 0.1)",
}
"""What `eagerly tune` searches where --space and --set say nothing else."""


@dataclass(frozen=True)
class Config(Settings):
    """How an image classifier learns, and from which images."""

    PATHS: ClassVar[tuple[str, ...]] = ("data", "data_dir", "pretrained")
    dataset: Literal["digits", "mnist", "fashion-mnist", "cifar10"] = "digits"
    """Built-in data set; digits (8x8) comes with scikit-learn, the others are downloaded where absent."""
    data: str = ""
    """Folder with one subfolder of PNG or JPEG images per class; takes the place of --dataset."""
    stream: bool = False
    """Whether --data, then also at s3:// or gs://, is decoded onto the disk once and read from there."""
    data_dir: str = ""
    """Folder where the built-in sets are, or are downloaded to; empty is `datasets` in EAGERLY_HOME or ~/.eagerly."""
    arch: str = "convnet"
    """Network: convnet, article, or the name of a torchvision classifier such as resnet18."""
    pretrained: str = ""
    """Weights to start from: a safetensors file, or `default` for torchvision's own."""
    label_smoothing: float = 0.02
    """Share of each target spread evenly over all classes, 0 to below 1."""
    augment: bool = True
    """Shifts and rotates training images a little, at random; --no-augment does not."""
    mirror: bool = False
    """Whether --augment also swaps left and right; always so for fashion-mnist and cifar10."""
    image_size: int = 0
    """Height and width that images are resized to, in pixels; 0 keeps the data's own."""
    epochs: int = 0
    """Passes over the training split; 0 takes 20 for digits, 40 for cifar10, 8 for mnist, 15 for fashion-mnist,
    30 for --data."""
    batch_size: int = 128
    """Examples per optimizer step, over all workers together."""
    lr: float = 6e-3
    """Learning rate; the peak where the schedule has one."""
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    """Rule that turns gradients into steps."""
    schedule: Schedule = "onecycle"
    """How the learning rate moves over the run."""
    weight_decay: float = 0.01
    """L2 penalty; decoupled with adamw."""
    dropout: float = 0.1
    """Share of activations dropped while training, 0 to below 1."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        if self.epochs == 0:
            object.__setattr__(self, "epochs", EPOCHS["" if self.data else self.dataset])
        super().__post_init__()
        if self.stream and not self.data:
            raise ValueError("--stream reads the images of --data; name their folder, such as --data photos")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if self.image_size and not 8 <= self.image_size <= 1024:
            raise ValueError(f"--image-size is {self.image_size}; it must be 8 to 1024, or 0 for the data's own")
        if self.pretrained == "default" and self.arch in ("convnet", "article"):
            raise ValueError(
                f"--pretrained default has no weights for --arch {self.arch}; name a torchvision classifier"
                " such as --arch resnet18, or a safetensors file"
            )
