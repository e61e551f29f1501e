"""What tells a worker to stop: SIGTERM, Ray's notice of a preemption, and a controller that resizes or ends the group.

Ray runs the training in a thread of the worker, so the main thread can take signals and calls meanwhile. The training
asks `pending` at the ends of its windows, and all ranks stop together once one of them was told to.
"""

import os
import signal
import threading

WAIT_SECONDS = 3.0
"""Most time a worker gets for its last checkpoint when the group is to end."""


class GivenUp(RuntimeError):
    """Workers were lost more often than the run allows; its checkpoints are there to go on from."""


class _Notice:
    """What this process was told."""

    def __init__(self) -> None:
        self.reason = ""
        self.training = threading.Event()
        self.ended = threading.Event()


_NOTICE = _Notice()


def pending() -> str:
    """Says why this worker should stop; empty while it should not."""
    return _NOTICE.reason or _preempted()


def _preempted() -> str:
    """Reads what Ray's watcher told this worker, without the barrier of `ray.train.get_preemption_info`."""
    from ray.train.v2._internal.execution.context import get_train_context

    if not _NOTICE.training.is_set():
        return ""
    told = get_train_context().preemption_context.preemption_info
    return f"a node is about to be taken away (workers {told.preempted_ranks})" if told else ""


def begin() -> None:
    """Says that the training of this worker has begun, and that there is something to wait for."""
    _NOTICE.ended.clear()
    _NOTICE.training.set()


def end() -> None:
    """Says that the training of this worker has ended, in whatever way."""
    _NOTICE.training.clear()
    _NOTICE.ended.set()


def listen() -> int:
    """Takes SIGTERM as a notice; for the main thread of a worker. Returns the process's id.

    Python runs a handler only between two instructions of the main thread, which may wait in Ray for a long time;
    a thread that reads the descriptor to which signals are written at once knows of it without delay.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    threading.Thread(target=_hear, args=(reading,), daemon=True).start()
    return os.getpid()


def _hear(reading: int) -> None:
    while number := os.read(reading, 1):
        if number[0] == signal.SIGTERM:
            _NOTICE.reason = f"worker {os.getpid()} got SIGTERM"
            if not _NOTICE.training.is_set():
                os._exit(128 + signal.SIGTERM)


def stop(reason: str) -> bool:
    """Tells this worker to stop and waits for its last checkpoint; whether it has ended."""
    if not _NOTICE.training.is_set():
        return True
    _NOTICE.reason = reason
    return _NOTICE.ended.wait(WAIT_SECONDS)
