"""How a run is asked to stop between two steps, and says that it did; standard library only."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

AGAIN_SECONDS = 3.0
"""A process group and its leader both pass SIGTERM on, so that one wish may come twice."""


class Stopped(Exception):
    """The run was asked to stop, and its checkpoint is on the disk: the same run goes on from there."""

    def __init__(self, reason: str, step: int) -> None:
        """Takes why, and after which step."""
        super().__init__(reason, step)
        self.reason, self.step = reason, step

    def __str__(self) -> str:
        """Says both."""
        return f"stopped after step {self.step}, whose checkpoint is written ({self.reason})"


def never() -> str:
    """Asks for no stop."""
    return ""


class Notice:
    """Takes SIGTERM as the wish to stop; called, it gives the reason or nothing.

    A SIGTERM that comes seconds after the first ends at once: the loop may be far from its next window.
    """

    def __init__(self) -> None:
        """Has no reason yet."""
        self.reason = ""
        self._before: Any = None
        self._since = 0.0

    def __call__(self) -> str:
        """Gives the reason to stop, if there is one."""
        return self.reason

    def __enter__(self) -> "Notice":
        """Listens, in the one thread where Python lets it; elsewhere does nothing."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Puts back what listened before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.reason and time.monotonic() > self._since + AGAIN_SECONDS:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        elif not self.reason:
            self.reason, self._since = "SIGTERM came", time.monotonic()
