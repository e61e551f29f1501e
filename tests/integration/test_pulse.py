"""A run on Ray shows on Ray's own metrics port how far it has come."""

import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import journal, runs, tasks, workers
from pipelines.settings import Launch

RAY_OWN = ("ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total")


def exposed() -> dict[str, float]:
    """Samples of Ray's metrics port; a run's own by their name and task."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]  # other tests' machines come and go
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    found = re.findall(r"^(ray_\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, labels, value in found if "training" not in name or 'run="digits"' in labels}


def eventually(met: Callable[[dict[str, float]], bool], within_s: float = 60) -> dict[str, float]:
    until = time.monotonic() + within_s
    while not met(found := exposed()):
        assert time.monotonic() < until, found
        time.sleep(1)
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_steps_of_a_run_are_on_rays_metrics_port_until_its_worker_is_gone(tmp_path: Path) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def __init__(self, folder: str) -> None:
            self.pulse = workers.Pulse(runs.reopen(Path(folder)))

        def beat(self, *events: dict[str, object]) -> None:
            for event in events:
                self.pulse.beat(event)

        def stop(self) -> None:
            self.pulse.stop()

    task = tasks.find("classifier")
    run = runs.create("classifier", task, task.config.Config(), Launch(), tmp_path / "digits")
    journal.note(run.folder, {"event": "restart", "cause": "loss", "reason": "the machine is gone", "count": 1})
    worker: Any = Worker.remote(str(run.folder))
    start = {"event": "start", "step": 0, "steps": 40}
    steps = {"event": "steps", "first": 0, "losses": [2.5, 1.5], "examples_per_second": 100.0}
    ray.get(worker.beat.remote(start, steps))
    found = eventually(lambda found: "ray_eagerly_training_step" in found and set(RAY_OWN) <= set(found))
    checkpoint = found.pop("ray_eagerly_training_checkpoint_timestamp_seconds")
    assert abs(time.time() - checkpoint) < 60
    assert {name.removeprefix("ray_eagerly_training_"): found[name] for name in found if "training" in name} == {
        "running": 1,
        "step": 2,
        "planned_steps": 40,
        "loss": 1.5,
        "examples_per_second": 100,
        "restarts": 1,
    }
    ray.get(worker.beat.remote({"event": "checkpoint", "step": 2, "problem": "the disk is full"}))
    ray.get(worker.beat.remote({"event": "checkpoint", "step": 2}))
    eventually(lambda found: found["ray_eagerly_training_checkpoint_timestamp_seconds"] > checkpoint)
    ray.get(worker.stop.remote())
    eventually(lambda found: found.get("ray_eagerly_training_running") == 0)
    ray.kill(worker)
    eventually(lambda found: "ray_eagerly_training_step" not in found)


def test_the_name_of_rays_own_gauge_of_a_training_is_as_the_dashboard_has_it() -> None:
    from ray.train.v2._internal.metrics.controller import ControllerMetrics

    assert f"ray_{ControllerMetrics.CONTROLLER_STATE}" == "ray_train_controller_state"
