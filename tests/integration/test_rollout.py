"""Rollouts on real replicas with a real registry: a canary's share, rollbacks by themselves, a promotion."""

import contextlib
import io
import os
import signal
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import swap
from eagerly.cli import main
from eagerly.client import Client, Raw
from eagerly.commands.serve import Running, Serve, serving
from pipelines import registry, rollout
from pipelines.policy import Rollout

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning"),  # ray.serve's own
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # mlflow's own
]
REPLICAS, TASK = 2, "classifier"
IMAGE = Raw(bytes(swap.SIDE * swap.SIDE), (swap.SIDE, swap.SIDE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a registry of versions whose labels tell them; the fourth takes smaller images."""
    folder = tmp_path_factory.mktemp("rollout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("EAGERLY_HOME", str(folder / "home"))
        for number in (1, 2, 3):
            swap.register(folder, number)
        with pytest.MonkeyPatch.context() as smaller:
            smaller.setattr(swap, "SIDE", 14)
            swap.register(folder, 4)
        swap.promote(1)
        yield folder


@pytest.fixture(scope="module")
def running(ray_cluster: None, folder: Path) -> Iterator[Running]:
    """Two replicas that follow the registry."""
    args = Serve(services=(TASK,), port=0, metrics_port=0, replicas=REPLICAS, threads=1, poll_s=0.5)
    with serving(args) as endpoint:
        yield endpoint


def eagerly(line: str) -> str:
    """Runs the command; returns what it prints."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(line.split()) == 0
    return shown.getvalue()


def stands() -> Rollout:
    found = rollout.latest(registry.aim(TASK))
    assert found
    return found


def call_until(
    running: Running, met: Callable[[], bool], most: int = 6000, required: bool = True
) -> Counter[tuple[str, str]]:
    """Calls over many connections until something is so; counts versions, with the label's or `error`."""
    seen: Counter[tuple[str, str]] = Counter()
    while sum(seen.values()) < most and not met():
        with Client(running.address) as client:
            for _ in range(20):
                (result,) = client.classify([IMAGE])
                said = "error" if result.error else result.labels[0].label.split()[0]
                seen[str(result.provenance.version), said] += 1
    assert not required or met(), f"not after {most} calls: {stands()}"
    return seen


def mixed(seen: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in seen if pair[1] not in (f"v{pair[0]}", "error")]


def metric(running: Running, start: str) -> float:
    with urllib.request.urlopen(running.metrics, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def watchers() -> set[int]:
    """The process ids of this test's store's watchers."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "services.watcher" in words and os.environ["EAGERLY_HOME"] in words:
                found.add(process.pid)
    return found


def tried(running: Running) -> bool:
    """Whether both replicas have the candidate: both have counted calls, and it has answered."""
    told = rollout.reports((registry.aim(TASK) or registry.Aim(0, 0)).tags, stands())
    return sum(one.replicas for one in told.values()) == REPLICAS and all(
        one.tally.candidate.calls for one in told.values()
    )


def test_a_shadow_that_disagrees_is_rolled_back_by_itself_and_says_why(running: Running):
    shown = eagerly(f"rollout start {TASK} --to 3 --shadow 50% --least-calls 50 --max-slower 100")
    assert "classifier version 3 gets copies of 50% of the calls beside version 1" in shown
    seen = call_until(running, lambda: stands().state != "running")
    assert set(seen) == {("1", "v1")}, "a shadow answers nobody"
    assert stands().state == "rolled back"
    assert stands().reason.startswith("disagreement: 100.0% of the answers to ")
    shown = eagerly(f"rollout status {TASK}")
    assert "rolled back" in shown and "disagreement" in shown and "0.00%" in shown and "--force" in shown
    assert main(["rollout", "promote", TASK]) == 2


def test_a_canary_that_refuses_what_callers_send_is_rolled_back_by_itself(running: Running):
    eagerly(f"rollout start {TASK} --to 4 --canary 20%")
    seen = call_until(running, lambda: stands().state != "running")
    assert stands().state == "rolled back"
    assert stands().reason.startswith("errors: ")
    assert mixed(seen) == []
    assert 0 < seen["4", "error"] <= 100
    call_until(running, lambda: metric(running, "eagerly_rollout_share") == 0)
    rolled_back = 'eagerly_rollout_ends_total{outcome="rolled_back"'
    call_until(running, lambda: metric(running, rolled_back) == 2 * REPLICAS)  # this one, and the one before
    assert set(call_until(running, lambda: False, 60, required=False)) == {("1", "v1")}


def test_a_canary_answers_its_share_survives_the_watchers_death_and_is_promoted_without_a_failed_call(
    running: Running,
):
    eagerly(f"rollout start {TASK} --to 2 --canary 30% --max-slower 100 --least-calls 100000")
    call_until(running, lambda: tried(running))
    (first,) = watchers()
    os.kill(first, signal.SIGKILL)
    calls = metric(running, "eagerly_rollout_calls_total")
    seen = call_until(running, lambda: metric(running, "eagerly_rollout_calls_total") >= calls + 1000)
    assert mixed(seen) == [] and set(seen) == {("1", "v1"), ("2", "v2")}
    assert 0.22 <= seen["2", "v2"] / sum(seen.values()) <= 0.38
    call_until(running, lambda: bool(watchers() - {first}))
    shown = eagerly(f"rollout status {TASK}")
    assert "running" in shown and "30% of the calls" in shown and "eagerly rollout promote classifier" in shown
    expected = swap.swapped(running) + REPLICAS
    with swap.calling(running, callers=2) as ledger:
        assert "version 2 is champion" in eagerly(f"rollout promote {TASK}")
        call_until(running, lambda: swap.swapped(running) >= expected)
    assert (ledger.failed, ledger.mixed) == ([], [])
    assert set(call_until(running, lambda: metric(running, "eagerly_rollout_share") == 0)) <= {("2", "v2")}
    assert (stands().state, registry.champion(TASK).version) == ("promoted", 2)
    assert registry.rollback(TASK).version == 1, "the history is kept"
