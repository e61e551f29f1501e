"""The model artifact: a sealed folder of weights and descriptions, without pickle; knows nothing of mlflow."""

import json
from collections.abc import Callable
from pathlib import Path

from pipelines import sealed
from pipelines.schema import Schema

REQUIRED = ("model.safetensors", "config.json")
SUFFIXES = (".safetensors", ".json", ".parquet")
FORMAT = 1
SCHEMA = "schema.json"


def write(folder: Path, task: str, save: Callable[[Path], None], schema: Schema | None = None) -> str:
    """Writes an artifact atomically and returns its digest, the SHA-256 of MANIFEST.json.

    `save` writes the model's files, and the schema goes beside them; the manifest gets the task's name and the
    format's number beside their digests.
    Raises ValueError when the model writes a file of a kind that an artifact must not hold.
    """

    def fill(rough: Path) -> None:
        save(rough)
        if schema is not None:
            (rough / SCHEMA).write_text(schema.to_json(), encoding="utf-8")
        _check_kinds(rough, {entry.name for entry in rough.iterdir()})

    return sealed.write(folder, fill, {"task": task, "format": FORMAT})


def verify(folder: Path) -> str:
    """Checks every digest of an artifact and that it holds nothing but what an artifact may hold.

    Returns the digest. Raises ValueError saying what is wrong, and opens no file that could run code.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no artifact folder {str(folder)!r}")
    _check_kinds(folder, {entry.name for entry in folder.iterdir()} - {sealed.MANIFEST})
    return sealed.verify(folder)


def schema_of(folder: Path) -> Schema | None:
    """Reads which tensors an artifact's model takes and gives; None for an artifact that does not say.

    Raises ValueError when it says so in a way that is no schema.
    """
    path = folder / SCHEMA
    return Schema.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def task_of(folder: Path) -> str:
    """Reads which task an artifact's model belongs to."""
    return str(json.loads((folder / sealed.MANIFEST).read_text(encoding="utf-8"))["task"])


def _check_kinds(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        if Path(name).suffix not in SUFFIXES:
            raise sealed.Corrupt(f"{str(folder)!r} holds {name!r}; an artifact holds only {', '.join(SUFFIXES)} files")
    for name in REQUIRED:
        if name not in names:
            raise sealed.Corrupt(f"{str(folder)!r} lacks {name!r}; it is no model artifact")
