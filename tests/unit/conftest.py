"""What unit tests share."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import collectors
    import training


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
