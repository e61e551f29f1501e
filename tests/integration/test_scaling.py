"""The number of replicas follows the load on real Ray Serve, and no call is lost on the way."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.crowd import crowd
from benchmarks.serving import convnet
from eagerly.client import CallError, Client, Raw
from eagerly.commands.serve import Running, Serve, serving
from services.metrics import alive_pids

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
IMAGE = Raw(bytes(28 * 28), (28, 28))
CALLERS = 6


@pytest.fixture(scope="module")
def running(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One replica that may become two."""
    stored = convnet(tmp_path_factory.mktemp("models") / "convnet")
    numbers = {"replicas": 1, "max_replicas": 2, "target_queue_ms": 10.0, "scale_up_s": 0.5, "scale_down_s": 2.0}
    with serving(Serve(port=0, metrics_port=0, threads=1, **numbers), [stored]) as endpoint:  # type: ignore[arg-type]
        yield endpoint


@contextlib.contextmanager
def calling(address: str, calm: threading.Event) -> Iterator[list[str]]:
    """Calls over one connection after another as clients that come and go, in a rush until it is to be calm.

    Yields what came of each call, complete when the block ends.
    """
    ledger: list[str] = []

    def call(number: int, stop: threading.Event) -> None:
        while not stop.is_set():
            with Client(address, timeout_s=30) as client:
                for _ in range(20):
                    try:
                        client.classify([IMAGE] * (1 if calm.is_set() else 64))
                        ledger.append("OK")
                    except CallError as error:
                        ledger.append(f"{error.code}: {error}")
                    stop.wait(0.3 if calm.is_set() else 0.0)

    with crowd(CALLERS, call):
        yield ledger


def awaited(running: Running, count: int, timeout_s: float) -> bool:
    """Waits until so many replicas are alive."""
    until = time.monotonic() + timeout_s
    while len(alive_pids(running.metrics_folder)) != count and time.monotonic() < until:
        time.sleep(0.1)
    return len(alive_pids(running.metrics_folder)) == count


def test_replicas_come_with_the_load_and_go_with_it_and_no_call_fails(running: Running):
    (first,) = alive_pids(running.metrics_folder)
    calm = threading.Event()
    with calling(running.address, calm) as ledger:
        assert awaited(running, 2, 90)
        assert first in alive_pids(running.metrics_folder)
        calm.set()
        assert awaited(running, 1, 90)
        time.sleep(1)
        assert len(alive_pids(running.metrics_folder)) == 1
    assert len(ledger) > 100
    assert set(ledger) == {"OK"}
