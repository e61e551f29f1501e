"""What a worker is told to stop by, each in a process of its own: SIGTERM, its controller, a preemption notice."""

import os
import subprocess
import sys

from training import ROOT

TERMINATED = """
import os, signal, time
from pipelines import notices
notices.listen()
{begin}
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(2)
print(notices.pending())
"""
TOLD = """
import threading, time
from pipelines import notices
print(notices.stop("no training yet"))
notices.begin()
threading.Timer(0.2, notices.end).start()
print(notices.stop("resized"), notices.pending())
notices.begin()
notices.WAIT_SECONDS = 0.2
print(notices.stop("resized again"))
"""
PREEMPTED = """
from ray.train.v2._internal.execution.context import TrainContext, set_train_context
from ray.train.v2._internal.execution.preemption import PreemptionContext
from ray.train.v2.api.preemption import PreemptionInfo
from pipelines import notices
context = object.__new__(TrainContext)
context.preemption_context = PreemptionContext()
set_train_context(context)
notices.begin()
print(repr(notices.pending()))
context.preemption_context.preemption_info = PreemptionInfo(None, {"node": [2, 3]})
print(notices.pending())
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", script], env=settings, capture_output=True, text=True, timeout=60, check=False
    )


def test_sigterm_is_a_notice_to_a_worker_that_trains() -> None:
    done = run(TERMINATED.format(begin="notices.begin()"))
    assert done.returncode == 0 and done.stdout.startswith("worker ") and done.stdout.endswith("got SIGTERM\n")


def test_sigterm_ends_a_worker_that_does_not_train() -> None:
    done = run(TERMINATED.format(begin=""))
    assert (done.returncode, done.stdout) == (143, "")


def test_a_controller_waits_for_the_training_to_end_but_not_for_ever() -> None:
    assert run(TOLD).stdout.splitlines() == ["True", "True resized", "False"]


def test_rays_notice_of_a_preemption_is_seen() -> None:
    done = run(PREEMPTED)
    assert done.stdout.splitlines() == ["''", "a node is about to be taken away (workers [2, 3])"], done.stderr
