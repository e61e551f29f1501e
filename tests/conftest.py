"""What tests share: real data, one Ray cluster, marks, an order among several processes, and a rule for skips."""

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parent.parent
ALLOWED_SKIPS = (ROOT / "tests" / "allowed_skips.txt").read_text().splitlines()
SHARED = ("ray_cluster", "trained_alone", "trained_by_torchrun")
"""Fixtures that several files use, and that a second process would have to make again."""
OWN_CLUSTERS = ("test_jobs", "test_own_task", "test_serve_command")
"""Files that start clusters of their own, one of which at a time is enough."""
SYSTEM = (
    *OWN_CLUSTERS,
    "test_backup",
    "test_demo",
    "test_image_install",
    "test_ledger",
    "test_readme",
    "test_soak",
    "test_storage_s3",
    "test_tracker_server",
)
"""Files that take the system as a whole through minutes of work, load or loss; `make test-system` runs them."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that are not part of the project."""
    folder = Path(os.environ.get("EAGERLY_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no shared data: EAGERLY_TEST_DATA names no folder")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray cluster of the session."""
    import ray

    from pipelines import cluster
    from pipelines.launch import start_ray
    from pipelines.settings import Launch

    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ[cluster.LOOPBACK] = "1"  # a machine joins it in test_capacity.py
    start_ray(Launch(workers=2), cores=6)
    yield
    ray.shutdown()


@pytest.fixture
def tracking_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, whose MLflow store is its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@functools.cache
def together(path: Path) -> str:
    """Names what runs in one process, one after the other: a file, or those that share something."""
    text = path.read_text(encoding="utf-8")
    needs_cluster = path.stem in OWN_CLUSTERS or any(name in text for name in SHARED)
    return "clusters" if needs_cluster else path.stem


class Together(LoadFileScheduling):
    """Deals out files; xdist's own groups go by ids of tests in a way that pytest 9.2 no longer knows."""

    def _split_scope(self, nodeid: str) -> str:
        return together(ROOT / nodeid.partition("::")[0])


def pytest_configure() -> None:
    """Has what tests start take Ctrl-C: a shell's job in the background ignores it, and so would its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    config.option.loadscopereorder = False  # the order is that below
    return Together(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what takes minutes, and begins with what takes longest; clusters of a test's own come after the shared."""
    for item in items:
        if item.path.stem in SYSTEM:
            item.add_marker("system")
    items.sort(key=lambda item: (together(item.path) != "clusters", item.path.stem in OWN_CLUSTERS))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fails a CI run in which a test was skipped for a reason that is not on the list."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI") != "true":
        return
    reasons = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])]
    odd = [reason for reason in reasons if not any(reason.startswith(allowed) for allowed in ALLOWED_SKIPS)]
    if odd:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"skipped for reasons that tests/allowed_skips.txt does not list: {odd}", red=True)
