"""What unit tests share."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import collectors
    import training

    from services.store import Store


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[training.Pair]":
    """Two processes that train together through gloo, started once for all tests."""
    import training

    both = training.Pair(tmp_path_factory.mktemp("pair"))
    yield both
    both.close()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with nothing in it, to copy: making one takes seconds."""
    from pipelines import registry

    place = tmp_path_factory.mktemp("empty") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own use of sqlalchemy
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}")
        assert registry.names() == []
    return place


@pytest.fixture
def collector() -> "Iterator[collectors.Collector]":
    """A collector of traces that listens."""
    import collectors

    server = collectors.Collector()
    yield server
    server.shutdown()
    server.thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, str]]:
    """Classifiers whose labels tell their version: folder and digest of each."""
    import registries

    folder = tmp_path_factory.mktemp("artifacts")
    made = {}
    for number in (1, 2, 3):
        labels = [f"v{number} {digit}" for digit in range(8 + number)]
        made[number] = folder / str(number), registries.classifier(folder / str(number), labels)
    return made


@pytest.fixture
def store(tmp_path: Path) -> "Iterator[Store]":
    """A store whose watcher is the test."""
    from services.store import Store

    made = Store(str(tmp_path / "home"), "http://nowhere.invalid")
    lock = made.watch()
    assert lock is not None
    yield made
    os.close(lock)


@pytest.fixture
def without_ray() -> None:
    """This process alone; tests that share a cluster come first, so that none needs it any more."""
    import ray

    ray.shutdown()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    known = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**known, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    where = f"{host}:{port}"
    fs.S3FileSystem(endpoint_override=where, scheme="http", allow_bucket_creation=True).create_dir("bucket")
    yield "s3://bucket"
    server.stop()
