"""The model artifact: a sealed folder of weights and descriptions, without pickle; knows nothing of mlflow."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import sealed
from pipelines.schema import Schema

REQUIRED = ("model.safetensors", "config.json")
SUFFIXES = (".safetensors", ".json", ".parquet")
FORMAT = 1
SCHEMA = "schema.json"


def write(folder: Path, task: str, save: Callable[[Path], None], schema: Schema | None = None, state: str = "") -> str:
    """Writes an artifact atomically and returns its digest, the SHA-256 of MANIFEST.json.

    `save` writes the model's files, and the schema goes beside them; the manifest gets the task's name, the format's
    number and the digest of the state that the model is of beside their digests.
    Raises ValueError when the model writes a file of a kind that an artifact must not hold.
    """

    def fill(rough: Path) -> None:
        save(rough)
        if schema is not None:
            (rough / SCHEMA).write_text(schema.to_json(), encoding="utf-8")
        _check_kinds(rough, {entry.name for entry in rough.iterdir()})

    return sealed.write(folder, fill, {"task": task, "format": FORMAT} | ({"state": state} if state else {}))


def kept(folder: Path, state: str) -> str:
    """Gives the digest of the artifact that is there if it is whole and of this state; else nothing, and removes it.

    A crash meanwhile leaves the whole artifact or none.
    """
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        digest = verify(folder)
        if _manifest(folder).get("state") == state:
            return digest
    except (OSError, ValueError):
        pass
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)
    return ""


def verify(folder: Path) -> str:
    """Checks every digest of an artifact and that it holds nothing but what an artifact may hold.

    Returns the digest. Raises Corrupt saying what is wrong, and OSError when it cannot be read now; opens no file that
    could run code.
    """
    if not folder.is_dir():
        raise sealed.Corrupt(f"there is no artifact folder {str(folder)!r}")
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
    return str(_manifest(folder)["task"])


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / sealed.MANIFEST).read_text(encoding="utf-8"))


def _check_kinds(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        if Path(name).suffix not in SUFFIXES:
            raise sealed.Corrupt(f"{str(folder)!r} holds {name!r}; an artifact holds only {', '.join(SUFFIXES)} files")
    for name in REQUIRED:
        if name not in names:
            raise sealed.Corrupt(f"{str(folder)!r} lacks {name!r}; it is no model artifact")
