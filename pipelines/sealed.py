"""Folders that are whole or absent: written beside their place, hashed file by file, then renamed into it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"
NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What is raised where there is no file, rather than one that cannot be read now."""


class Corrupt(ValueError):
    """A sealed folder whose content is not what its manifest says."""


def write(folder: Path, fill: Callable[[Path], None], facts: Mapping[str, Any] | None = None) -> str:
    """Writes a folder atomically: `fill` writes the files, then a manifest of their SHA-256 and of `facts` is added.

    A crash at any moment leaves either the whole folder or none. Returns the SHA-256 of the manifest.
    Raises FileExistsError when the folder is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{str(folder)!r} exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    rough = folder.with_name(f".{folder.name}.{os.getpid()}.rough")
    shutil.rmtree(rough, ignore_errors=True)
    rough.mkdir()
    fill(rough)
    files = {path.name: hash_file(path) for path in sorted(rough.iterdir())}
    (rough / MANIFEST).write_text(json.dumps({**(facts or {}), "files": files}, indent=2, sort_keys=True) + "\n")
    for path in rough.iterdir():
        sync(path)
    move(rough, folder)
    return hash_file(folder / MANIFEST)


def put(path: Path, text: str) -> None:
    """Writes a small file in one go: whoever reads it meanwhile, or after a crash, finds the old text or the new."""
    rough = path.with_name(f".{path.name}.{os.getpid()}.rough")
    rough.write_text(text, encoding="utf-8")
    move(rough, path)


def verify(folder: Path) -> str:
    """Compares every file with the manifest and returns the manifest's SHA-256.

    Raises Corrupt when the manifest is missing or garbled, or a file is missing, changed or not listed; and OSError
    when one cannot be read now, which says nothing of what it holds.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {str(name): str(value) for name, value in files.items()}
    except (*NO_FILE, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise Corrupt(f"{str(folder)!r} has no readable {MANIFEST}") from problem
    found = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(found | set(listed)):
        if name not in listed:
            raise Corrupt(f"{str(folder)!r} holds {name!r}, which its {MANIFEST} does not list")
        if name not in found:
            raise Corrupt(f"{str(folder)!r} lacks {name!r}, which its {MANIFEST} lists")
        if not (folder / name).is_file() or hash_file(folder / name) != listed[name]:
            raise Corrupt(f"{name!r} in {str(folder)!r} is not what its {MANIFEST} says (SHA-256 differs)")
    return hash_file(folder / MANIFEST)


def hash_file(path: Path) -> str:
    """Hashes a file's bytes; SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """Hashes a text's UTF-8 bytes; SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def move(rough: Path, path: Path) -> None:
    """Puts a finished file, or a folder of files on the disk, in its place, to be there also after a crash."""
    sync(rough)
    rough.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Brings a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
