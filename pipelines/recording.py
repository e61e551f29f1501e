"""The parent's side of the recorder process."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import journal

PATIENCE_SECONDS = 1800.0
"""The recorder ends by itself; this is for one that hangs, and leaves time to send a large model."""
LEAVE_SECONDS = 5.0
"""So long somebody who broke a run off waits for its recorder, which then goes on alone until MLflow answers or not."""
AWAY_SECONDS = 1.0
"""So long when MLflow did not answer the last time that the recorder asked."""
NICENESS = 5
"""The recorder yields the processor to the training."""
MOST_STARTS = 5
"""So often a recorder that was killed, as when memory ran out, is started again; it goes on where it was."""


class NotRecorded(RuntimeError):
    """The model was trained and lies in its run folder, but MLflow does not know of it."""

    def __init__(self, sentence: str, recorded: list[dict[str, Any]]) -> None:
        """Takes what to say, and the results of the other runs."""
        super().__init__(sentence)
        self.recorded = recorded


def _say(sentence: str) -> None:
    print(f"eagerly: {sentence}", file=sys.stderr, flush=True)


def later(folders: list[Path]) -> str:
    """Says how to record what MLflow may lack."""
    what = " ".join(map(str, folders))
    return f"MLflow may lack some of it, which the folder keeps: `eagerly record {what}` brings it in"


class Recording:
    """A recorder process that follows run folders, in a session of its own so that Ctrl-C ends it last."""

    def __init__(self, folders: list[Path], say: Callable[[str], None] = _say) -> None:
        """Starts the process; it ends by itself when this one does, however that happens.

        say: is called with sentences about what is amiss, from a thread of its own.
        """
        self._folders, self._say = folders, say
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._results: dict[str, dict[str, Any]] = {}
        self._lock, self._is_closing, self._is_hurried = threading.Lock(), False, False
        self._is_away, self._broken_off = False, float("inf")
        self._process = self._start(folders)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The recorder's process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How the recorder ended; None while it works."""
        return self._process.poll()

    def _start(self, folders: list[Path]) -> "subprocess.Popen[bytes]":
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipelines.recorder", *map(str, folders)],
            cwd=os.environ.get("EAGERLY_JOB_FOLDER") or None,  # a job's own ends with its cluster, and mlruns/ in it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        return process

    def _follow(self) -> None:
        """Takes what the recorder says, and starts another in its place when it was killed."""
        for _ in range(MOST_STARTS):
            assert self._process.stdout is not None
            with self._process.stdout as lines:
                for line in lines:
                    self._take(line)
            left = [folder for folder in self._folders if str(folder) not in self._results]
            if self._process.wait() >= 0 or not left:
                return
            with self._lock:
                if self._is_hurried:
                    return
                self._process = self._start(left)
                if self._is_closing:
                    self._hang_up()

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"{"):
            return
        said = json.loads(line)
        if "notice" in said:
            self._say(said["notice"])
        elif "away" in said:
            self._is_away = said["away"]
        else:
            self._results[said["run_dir"]] = said

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._process.stdin.write(b"hurry" if self._is_hurried else b"")
            self._process.stdin.close()

    def _end(self, patience_seconds: float, hurry: bool = False) -> bool:
        """Lets the recorder log what is there and end; says whether it did in time."""
        with self._lock:
            self._is_closing, self._is_hurried = True, hurry
            self._hang_up()
        self._thread.join(patience_seconds)
        return not self._thread.is_alive()

    def _kill(self) -> None:
        with self._lock:
            self._process.kill()
        self._process.wait()

    def close(self) -> list[dict[str, Any]]:
        """Lets the recorder log what is there and end; returns a result for each run.

        Raises NotRecorded when MLflow did not take a run, saying how to try again.
        """
        with self._errors:
            if not self._end(PATIENCE_SECONDS):
                self._kill()
            results = [self._results.get(str(folder), {"error": self._last_words()}) for folder in self._folders]
        for folder, result in zip(self._folders, results, strict=True):
            if "error" in result:
                again = f"its model is in the folder, and `eagerly record {folder}` records it later"
                sentence = f"the run in {str(folder)!r} is not in MLflow: {result['error']}; {again}"
                raise NotRecorded(sentence, [result for result in results if "error" not in result])
        return results

    def hurry(self) -> None:
        """Lets the recorder log what is there of runs that were broken off, and end; waits for nothing."""
        self._broken_off = min(self._broken_off, time.monotonic())
        self._end(0.0, hurry=True)

    def abandon(self) -> list[Path]:
        """Lets the recorder log what is there of runs that did not end, and end; it waits for no tracker.

        Returns the folders of what MLflow may lack, after a few seconds at most: a recorder that waits for an answer
        goes on alone, for at most half a minute, and ends.
        """
        self.hurry()
        waited = time.monotonic() - self._broken_off
        with self._errors:
            has_ended = self._end(max(0.0, (AWAY_SECONDS if self._is_away else LEAVE_SECONDS) - waited), hurry=True)
        begun = [folder for folder in self._folders if journal.has_begun(folder)]
        if not (has_ended or begun):
            self._kill()
        return [folder for folder in begun if "error" in self._results.get(str(folder), {"error": ""})]

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the recorder ended with {self._process.returncode} or took too long"
