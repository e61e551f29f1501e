"""The parent's side of the recorder process; standard library only."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 300.0
NICENESS = 5
"""The recorder yields the processor to the training."""


class NotRecorded(RuntimeError):
    """The model was trained and lies in its run folder, but MLflow does not know of it."""

    def __init__(self, sentence: str, recorded: list[dict[str, Any]]) -> None:
        """Takes what to say, and the results of the other runs."""
        super().__init__(sentence)
        self.recorded = recorded


class Recording:
    """A recorder process that follows run folders, in a session of its own so that Ctrl-C ends it last."""

    def __init__(self, folders: list[Path]) -> None:
        """Starts the process; it ends by itself when this one does, however that happens."""
        self._folders = folders
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.recorder", *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)

    def close(self) -> list[dict[str, Any]]:
        """Lets the recorder log what is there and end; returns a result for each run.

        Raises NotRecorded when MLflow did not take a run, saying how to try again.
        """
        with self._errors:
            output = self._wait()
            results = [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]
            failed = next((at for at, result in enumerate(results) if "error" in result), len(results))
            if failed < len(self._folders):
                problem = results[failed]["error"] if failed < len(results) else self._last_words()
                where = self._folders[failed]
                again = f"`eagerly train --resume {where}` tries again"
                sentence = f"the run in {str(where)!r} is not in MLflow ({problem}); {again}"
                raise NotRecorded(sentence, [result for result in results if "error" not in result])
        return results

    def _wait(self) -> bytes:
        try:
            return self._process.communicate(timeout=PATIENCE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.communicate()[0]

    def abandon(self) -> None:
        """Lets the recorder log what is there of runs that did not end, and end."""
        with self._errors:
            self._process.communicate(timeout=PATIENCE_SECONDS)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the recorder ended with {self._process.returncode} or took too long"
