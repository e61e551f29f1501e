"""4 -> 2 -> 3 workers in mid-epoch through Ray Train, on a cluster of several raylets: each example once an epoch.

`python -m benchmarks.elastic [--notice] [--epochs 40]` starts a head and two nodes of two workers each, takes one node
away (killed, or with `--notice` drained as before a preemption), later adds a node of one worker, and lets every rank
write down what it reads. The judge is the ledger of the history that leads to the final weights.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from benchmarks import runs as logs
from pipelines import launch, ledger, runs, tasks
from pipelines.settings import Launch

PARITY = str(Path(__file__).resolve().parents[1] / "examples" / "parity")
BATCH = 18
"""89 batches an epoch; neither 18 nor the last batch's 16 divides by 3, and 18 not by 4."""
PATIENCE_SECONDS = 300.0
DRAIN_SECONDS = 60


class Training(threading.Thread):
    """Trains beside the main thread, in which alone Ray lets nodes join."""

    def __init__(self, run: runs.Run, how: Launch) -> None:
        """Takes what to train and where."""
        super().__init__(daemon=True)
        self._run, self._how = run, how
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Trains to the end."""
        try:
            launch.start_ray(self._how)
            launch.train([self._run], self._how)
        except BaseException as problem:  # told by the main thread
            self.problem = problem

    def wait_for(self, workers: int, steps: int) -> None:
        """Waits until a group of so many workers has taken so many steps."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._steps_of(workers) < steps:
            assert time.monotonic() < deadline and self.is_alive(), f"{workers} workers took no {steps} steps"
            time.sleep(0.1)

    def _steps_of(self, workers: int) -> int:
        groups = logs.events(self._run.folder, "workers")
        since = next((event["time"] for event in groups if event["count"] == workers), float("inf"))
        steps = [event for event in logs.events(self._run.folder, "steps") if event["time"] > since]
        return sum(len(event["losses"]) for event in steps)


def drain(node_id: str) -> None:
    """Tells Ray that a node is about to be taken away, as a cloud's notice does."""
    from ray._private import worker
    from ray.core.generated import autoscaler_pb2

    generated, private = cast(Any, autoscaler_pb2), cast(Any, worker)
    reason = generated.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + DRAIN_SECONDS) * 1000)
    accepted, why = private.global_worker.gcs_client.drain_node(
        node_id, reason, "taken away by the benchmark", deadline_ms
    )
    assert accepted, why


def judge(run_dir: Path, ledger_dir: Path, examples: int, epochs: int) -> list[str]:
    """Lists what is wrong with the surviving history; nothing is wrong with a list that is empty."""
    taken = list(ledger.taken(ledger_dir, run_dir))
    surviving = ledger.surviving(taken, run_dir)
    counts = ledger.tally(surviving)
    odd = [at for at in range(epochs) if counts.get(at) != Counter(range(examples))]
    wrong = [f"epoch {at}: an example is missing or double" for at in odd]
    sizes = [event["count"] for event in logs.events(run_dir, "workers")]
    if [size for at, size in enumerate(sizes) if at == 0 or size != sizes[at - 1]] != [4, 2, 3]:
        wrong.append(f"the groups had {sizes} workers")
    per_epoch = -(-examples // BATCH)
    firsts = [now.step for then, now in pairwise(surviving) if now.attempt > then.attempt]
    if not any(step % per_epoch for step in firsts):
        wrong.append(f"no change was in mid-epoch: {firsts}")
    print(f"workers {sizes}, changes before steps {firsts} of {len(surviving)} ({per_epoch} an epoch)")
    print(f"{len(taken)} steps taken, {len(taken) - len(surviving)} of them not in the surviving history")
    for event in logs.events(run_dir, "restart"):
        print(f"restart: {event['cause']}: {event['reason']}")
    return wrong


def main() -> None:
    """Runs the changes, judges the ledger and exits with 1 when an example is missing or double."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notice", action="store_true")
    parser.add_argument("--epochs", type=int, default=40)
    words = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="eagerly-elastic-"))
    os.environ.update({**launch.SETTINGS, ledger.FOLDER: str(folder / "ledger"), "OMP_NUM_THREADS": "1"})
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2, include_dashboard=False) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    how = Launch(workers="2:4", threads=1, checkpoint_steps=25, max_failures=2, resize_seconds=2)
    task = tasks.find(PARITY)
    run = runs.create(PARITY, task, task.config.Config(epochs=words.epochs, batch_size=BATCH), how, folder / "run")
    training = Training(run, how)
    training.start()
    try:
        training.wait_for(4, 60)
        if words.notice:
            drain(nodes[1].node_id)
        else:
            cluster.remove_node(nodes[1], allow_graceful=False)
        training.wait_for(2, 60)
        cluster.add_node(num_cpus=1, include_dashboard=False)
        training.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    if training.problem:
        raise training.problem
    wrong = judge(run.folder, folder / "ledger", len(task.data.load(run.config).train), words.epochs)
    print("\n".join(wrong) or "every example exactly once per epoch, by ledger of the surviving history")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    main()
