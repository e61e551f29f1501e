"""MLflow on a real Postgres and a local S3 server: a run is tracked, all is lost, and the backup brings it back."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trained import FLAGS, ROOT, python

PROGRAM = ROOT / "deploy" / "backup.py"
KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
S3 = "from moto.server import main; import sys; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_answer(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 200
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)


@contextlib.contextmanager
def answering(command: list[str], url: str, log: Path, **environment: str) -> Iterator[None]:
    """Runs a server while the block runs."""
    together = {**os.environ, **environment}
    with log.open("ab") as out, subprocess.Popen(command, stdout=out, stderr=out, env=together) as process:
        try:
            await_answer(url, process, log)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


@pytest.fixture
def postgres() -> Iterator[str]:
    """A Postgres of its own on loopback, with an empty database; the address to reach it by."""
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    found = shutil.which("initdb", path=str(programs)) if programs else shutil.which("initdb")
    if found is None or shutil.which("pg_dump") is None:
        pytest.skip("no postgres on this machine")
    bin_folder = Path(found).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="eagerly-postgres-"))
    who: dict[str, Any] = {"cwd": "/"}
    if os.geteuid() == 0:  # Postgres refuses to be root
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        who |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data, port, quiet = folder / "data", free_port(), {"check": True, "capture_output": True, **who}
    (folder / "password").write_text("secret/with%odd")
    (folder / "password").chmod(0o644)
    login = ["--username=mlflow", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run([bin_folder / "initdb", "-D", data, *login], **quiet)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    subprocess.run([bin_folder / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **quiet)
    try:
        server = f"postgresql://mlflow:secret%2Fwith%25odd@127.0.0.1:{port}"
        sql(f"{server}/postgres", "CREATE DATABASE mlflow")
        yield f"{server}/mlflow"
    finally:
        subprocess.run([bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder)


def sql(database: str, *commands: str) -> None:
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        for command in commands:
            connection.execute(command)  # type: ignore[arg-type]


def rows(database: str, query: str) -> list[Any]:
    import psycopg

    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Tracking:
    """What MLflow stands on, and where it answers when it runs."""

    database: str
    s3: str
    folder: Path
    port: int
    artifacts: str = "s3://models/eagerly"

    @property
    def environment(self) -> dict[str, str]:
        places = {"MLFLOW_S3_ENDPOINT_URL": self.s3, "ARTIFACTS": self.artifacts, "DATABASE_URL": self.database}
        return {**KEYS, **places, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def running(self) -> "contextlib.AbstractContextManager[None]":
        store = self.database.replace("postgresql://", "postgresql+psycopg://")
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", store, "--serve-artifacts", "--artifacts-destination", self.artifacts]
        return answering(command, f"{self.uri}/health", self.folder / "mlflow.log", **self.environment)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def backup(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return python(str(PROGRAM), *words, folder=self.folder, **{**self.environment, **environment})

    def bucket(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
        storage: Any = boto3.resource("s3", endpoint_url=self.s3, **keys)
        return storage.Bucket("models")


@pytest.fixture
def tracking(postgres: str, tmp_path: Path) -> Iterator[Tracking]:
    """An empty database and an empty bucket."""
    port = free_port()
    command = [sys.executable, "-c", S3, str(port)]
    with answering(command, f"http://127.0.0.1:{port}/moto-api/", tmp_path / "s3.log"):
        found = Tracking(postgres, f"http://127.0.0.1:{port}", tmp_path, free_port())
        found.bucket().create()
        yield found


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
@pytest.mark.timeout(900)
def test_a_model_lost_with_database_and_bucket_comes_back_and_is_what_it_was(tracking: Tracking) -> None:
    where = {"MLFLOW_TRACKING_URI": tracking.uri, "EAGERLY_HOME": str(tracking.folder / "home")}
    with tracking.running():
        done = python("-m", "eagerly", "train", "classifier", "--local", *FLAGS, folder=tracking.folder, **where)
        assert done.returncode == 0, done.stderr
        saved = tracking.backup("save", "backup")
        assert saved.returncode == 0, saved.stderr
        digest = champion(tracking, where)["stored"]["digest"]
    sql(tracking.database, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    tracking.bucket().objects.all().delete()
    shutil.rmtree(tracking.folder / "home")
    restored = tracking.backup("restore", "backup")
    assert restored.returncode == 0, restored.stderr
    with tracking.running():
        found = champion(tracking, where)
        assert (found["stored"]["digest"], found["note"]) == (digest, "")
        shown = python("-m", "eagerly", "models", "list", folder=tracking.folder, **where)
        assert "classifier" in shown.stdout and "champion" in shown.stdout


def champion(tracking: Tracking, where: dict[str, str]) -> dict[str, Any]:
    """Fetches the champion as a replica's watcher does, its digests checked."""
    words = ["-m", "services.watcher", "--home", where["EAGERLY_HOME"], "--once", "classifier"]
    done = python(*words, folder=tracking.folder, **where)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_damaged_backup_changes_nothing_and_a_folder_in_use_is_refused(postgres: str, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "model").write_text("weights")
    sql(postgres, "CREATE TABLE runs (name text)", "INSERT INTO runs VALUES ('first')")
    environment = {"DATABASE_URL": postgres, "ARTIFACTS": str(tmp_path / "artifacts")}

    def backup(*words: str, **other: str) -> tuple[int, str]:
        done = python(str(PROGRAM), *words, folder=tmp_path, **{**environment, **other})
        assert "Traceback" not in done.stderr and "secret" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    assert backup("save", "backup")[0] == 0
    assert backup("save", "backup") == (
        2,
        "backup: 'backup' is not empty; name a new folder, so that no two backups mix\n",
    )
    (tmp_path / "backup" / "artifacts" / "model").write_text("wrong")
    (tmp_path / "artifacts" / "model").write_text("newer")
    code, said = backup("restore", "backup")
    assert (code, "is missing or damaged; nothing was restored" in said) == (2, True)
    assert (tmp_path / "artifacts" / "model").read_text() == "newer"
    assert (
        backup("restore", "nowhere")[0] == backup("save", "other", DATABASE_URL="")[0] == backup("mend", "it")[0] == 2
    )
    assert backup("save", "third", DATABASE_URL=f"{postgres}x")[0] == 2
    assert not (tmp_path / "third").exists()
    assert backup("save", "third")[0] == 0, "the same command, once the database is there"


def test_what_stands_for_a_folder_in_a_bucket_is_no_artifact(tracking: Tracking) -> None:
    for key in ("eagerly/", "eagerly/1/", "eagerly/1/model"):
        tracking.bucket().put_object(Key=key, Body=b"weights" if key.endswith("model") else b"")
    saved = tracking.backup("save", "backup")
    assert (saved.returncode, saved.stdout) == (0, "saved the database and 1 artifact files into backup\n"), (
        saved.stderr
    )
    tracking.bucket().objects.all().delete()
    assert tracking.backup("restore", "backup").returncode == 0
    assert [item.key for item in tracking.bucket().objects.all()] == ["eagerly/1/model"]


def test_a_database_in_use_has_the_rows_of_the_backup_alone_once_it_is_restored(postgres: str, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    where = {"DATABASE_URL": postgres, "ARTIFACTS": str(tmp_path / "artifacts")}
    sql(postgres, "CREATE TABLE runs (name text PRIMARY KEY)", "INSERT INTO runs VALUES ('first')")
    assert python(str(PROGRAM), "save", "backup", folder=tmp_path, **where).returncode == 0
    sql(postgres, "INSERT INTO runs VALUES ('later')", "CREATE TABLE others (name text)")
    assert python(str(PROGRAM), "restore", "backup", folder=tmp_path, **where).returncode == 0
    assert rows(postgres, "SELECT name FROM runs") == [("first",)]
    sql(postgres, "INSERT INTO runs VALUES ('later')", "CREATE TABLE tags (run text REFERENCES runs)")
    refused = python(str(PROGRAM), "restore", "backup", folder=tmp_path, **where)
    assert refused.returncode == 2 and "tags" in refused.stderr, "a table of a newer MLflow refers to one that is known"
    assert rows(postgres, "SELECT name FROM runs") == [("first",), ("later",)]
