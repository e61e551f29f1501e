"""The flags of the sentiment task; standard library only."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipelines.settings import Schedule, Settings

DATASETS = ("sample",)
SCRATCH = {"epochs": 10, "batch_size": 64, "lr": 1e-2, "dropout": 0.5}
ENCODER = {"epochs": 3, "batch_size": 32, "lr": 5e-5, "dropout": 0.1}

SPACE = {
    "lr": "loguniform(1e-3, 1e-1)",
    "dropout": "uniform(0.1, 0.8)",
    "batch_size": "choice(32, 64, 128)",
    "weight_decay": "loguniform(1e-4, 1)",
    "width": "choice(32, 64, 128)",
}
"""What `eagerly tune` searches where --space and --set say nothing else, for learning from scratch."""


@dataclass(frozen=True)
class Config(Settings):
    """How a text classifier learns, from scratch or on top of a pretrained encoder."""

    PATHS: ClassVar[tuple[str, ...]] = ("data", "encoder")
    dataset: str = "sample"
    """Built-in data: sample (English film-review sentences and Chinese restaurant reviews)."""
    data: str = ""
    """CSV, TSV, JSONL or Parquet file of your own; replaces the built-in data."""
    stream: bool = False
    """Whether --data, then also a folder, a pattern or s3://, is numbered onto the disk once and read from there."""
    text_column: str = "text"
    """Column of --data that holds the texts."""
    label_column: str = "label"
    """Column of --data that holds the labels, words or whole numbers."""
    language_column: str = ""
    """Column of --data that names each text's language, by which the gate compares versions; empty goes by script."""
    encoder: str = ""
    """Folder or Hugging Face name of a pretrained encoder to fine-tune; empty learns from scratch."""
    max_tokens: int = 256
    """Tokens of a text that are read; the rest is cut off, in training and in serving."""
    max_characters: int = 20_000
    """Longest text that is taken: serving refuses a longer one, and Sentiment.Analyze any over 10,000 characters;
    training cuts it off."""
    vocabulary: int = 8_000
    """Tokens that the byte-level BPE tokenizer learns; an encoder brings its own tokenizer."""
    ngrams: int = 131_072
    """Most frequent word and character n-grams that get weights of their own; unused with an encoder."""
    width: int = 64
    """Size of the token embeddings and of the convolution over them; an encoder has its own size."""
    epochs: int = 0
    """Passes over the training split; 0 means 10 from scratch and 3 with an encoder."""
    batch_size: int = 0
    """Examples per optimizer step, over all workers together; 0 means 64 from scratch and 32 with an encoder."""
    lr: float = 0.0
    """Peak learning rate; 0 means 0.01 from scratch and 5e-5 with an encoder."""
    dropout: float = -1.0
    """Share of n-grams and activations dropped while training; -1 means 0.5 from scratch and 0.1 with an encoder."""
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    """Rule that turns gradients into steps."""
    schedule: Schedule = "onecycle"
    """How the learning rate moves over the run."""

    def __post_init__(self) -> None:
        """Fills in what depends on --encoder; raises ValueError for a value out of range, naming its flag."""
        defaults: dict[str, Any] = ENCODER if self.encoder else SCRATCH
        for name, value in defaults.items():
            if getattr(self, name) == (-1.0 if name == "dropout" else 0):
                object.__setattr__(self, name, value)
        super().__post_init__()
        if self.stream and not self.data:
            raise ValueError("--stream reads the files of --data; name them, such as --data 'reviews/*.parquet'")
        if not self.data and self.dataset not in DATASETS:
            raise ValueError(
                f"--dataset is {self.dataset!r}; there is {', '.join(DATASETS)}, or give a file with --data"
            )
        for name, low in (
            ("max_tokens", 4),
            ("max_characters", 1),
            ("vocabulary", 257),
            ("ngrams", 1),
            ("width", 1),
        ):
            if getattr(self, name) < low:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} is {getattr(self, name)}; the least allowed is {low}")
        if self.text_column == self.label_column:
            raise ValueError(f"--text-column and --label-column are both {self.text_column!r}; they must differ")
        if self.language_column and not self.data:
            raise ValueError("--language-column names a column of --data; name its file too")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of --data that are read: the texts', the labels', and the languages' if there is one."""
        language = (self.language_column,) if self.language_column else ()
        return self.text_column, self.label_column, *language
