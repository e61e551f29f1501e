"""Saves and restores what MLflow keeps: its Postgres database and its artifacts.

    python deploy/backup.py save FOLDER
    python deploy/backup.py restore FOLDER

DATABASE_URL is the database as libpq knows it, postgresql://USER:PASSWORD@HOST/NAME; ARTIFACTS a folder or
s3://BUCKET/PREFIX, with AWS's own variables and MLFLOW_S3_ENDPOINT_URL. pg_dump and pg_restore must be on PATH, of the
server's version or newer; s3:// needs boto3.

The database is saved first and restored last: artifacts are written before the database names them and never change,
so whatever a saved database names is among the saved artifacts. Saving needs no stop; stop MLflow to restore.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

DATABASE, ARTIFACTS, LIST = "mlflow.dump", "artifacts", "SHA256SUMS.json"


def main(words: list[str]) -> int:
    """Runs the program; one sentence and 2 for what the caller can mend."""
    if len(words) != 2 or words[0] not in ("save", "restore"):
        print("usage: python deploy/backup.py save|restore FOLDER", file=sys.stderr)
        return 2
    try:
        place = {name: os.environ.get(name, "") for name in ("DATABASE_URL", "ARTIFACTS")}
        for name, value in place.items():
            if not value:
                raise ValueError(f"{name} is not set; it must name what is to be saved or restored")
        work = save if words[0] == "save" else restore
        print(work(Path(words[1]), place["DATABASE_URL"], place["ARTIFACTS"]))
    except (ValueError, OSError) as problem:
        print(f"backup: {problem}", file=sys.stderr)
        return 2
    return 0


def save(folder: Path, database: str, artifacts: str) -> str:
    """Writes database, artifacts and their digests into a new folder, or leaves nothing there; says how much it was."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{str(folder)!r} is not empty; name a new folder, so that no two backups mix")
    (folder / ARTIFACTS).mkdir(parents=True)
    try:
        _fill(folder, database, artifacts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return f"saved the database and {len(_files(folder)) - 1} artifact files into {folder}"


def _fill(folder: Path, database: str, artifacts: str) -> None:
    _run("pg_dump", "--format=custom", "--no-owner", "--file", str(folder / DATABASE), "--dbname", database)
    if bucket := _bucket(artifacts):
        for name in _names(*bucket):
            _download(*bucket, name, folder / ARTIFACTS / name)
    else:
        shutil.copytree(artifacts, folder / ARTIFACTS, dirs_exist_ok=True)
    digests = {name: _digest(folder / name) for name in _files(folder)}
    (folder / LIST).write_text(json.dumps(digests, indent=1, sort_keys=True))


def restore(folder: Path, database: str, artifacts: str) -> str:
    """Puts a backup back, over what is there; raises ValueError, having changed nothing, when it is damaged."""
    if not (folder / LIST).is_file():
        raise ValueError(f"{str(folder)!r} holds no complete backup: there is no {LIST} in it")
    digests: dict[str, str] = json.loads((folder / LIST).read_text())
    for name, digest in digests.items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise ValueError(f"{name} in {str(folder)!r} is missing or damaged; nothing was restored")
    if bucket := _bucket(artifacts):
        for name in _files(folder / ARTIFACTS):
            _client().upload_file(str(folder / ARTIFACTS / name), bucket[0], bucket[1] + name)
    else:
        shutil.copytree(folder / ARTIFACTS, artifacts, dirs_exist_ok=True)
    options = ["--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error"]
    _run("pg_restore", *options, "--dbname", database, str(folder / DATABASE))
    return f"restored the database and {len(digests) - 1} artifact files from {folder}"


def _run(*command: str) -> None:
    """Runs a program of Postgres; its address, which may hold a password, stands in no error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"{command[0]} is not on PATH; install Postgres's client programs") from None
    if done.returncode:
        raise ValueError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")


def _files(folder: Path) -> list[str]:
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name != LIST)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bucket(artifacts: str) -> tuple[str, str] | None:
    """Splits s3://BUCKET/PREFIX; None for a folder."""
    parts = urlparse(artifacts)
    prefix = parts.path.strip("/")
    return (parts.netloc, f"{prefix}/" if prefix else "") if parts.scheme == "s3" else None


def _client() -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)


def _names(bucket: str, prefix: str) -> Iterator[str]:
    """Lists the objects below a prefix, without it; what stands for a folder, as some tools make, is none."""
    for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):
                yield item["Key"].removeprefix(prefix)


def _download(bucket: str, prefix: str, name: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    _client().download_file(bucket, prefix + name, str(file))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
