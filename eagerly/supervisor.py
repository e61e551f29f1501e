"""The first process of a submitted job: runs `eagerly train`, and once more where it was killed; says how it goes on.

It imports nothing heavy, so that training begins at once. Some of its lines are for programs (job_log.py).
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from eagerly.commands.progress import State
from pipelines import cluster, history, job_log, recovery, runs, sealed, tracking
from pipelines.journal import Reader

SAY_SECONDS, SELDOM_SECONDS, SELDOM_AFTER_SECONDS = 1.0, 10.0, 600.0
"""A line a second that has news; after ten minutes, one in ten."""
SAY_LINES = 256
"""A line for programs comes at least after so many for people, so that readers find one near the end."""
KEEP_AFTER_SECONDS = 15.0
"""When the upload to MLflow begins: its imports would slow the start of the training."""
UPLOAD_SECONDS, LAST_SECONDS = 120.0, 1.5
"""Longest wait for the last upload, at a job's own end and where it was told to stop."""
PAUSE_SECONDS = 1.0
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""
NICENESS = 5
"""The upload yields the processor to the training."""


class Supervisor:
    """One job, over all the times that its driver runs."""

    def __init__(self, plan: dict[str, Any]) -> None:
        """Takes what was submitted; the keys are those of jobs.Order.entrypoint."""
        self.plan = plan
        self.run_dir = Path(plan["run_dir"] or cluster.home() / "runs" / plan["name"])
        self.folder = Path(tempfile.mkdtemp(prefix="eagerly-job-"))  # until the run has one, which must begin empty
        self.said: dict[str, Any] = {"name": plan["name"], "task": plan["task"], "run_dir": str(self.run_dir)}
        self.said |= {"phase": "starting", "restarts": 0, "step": 0, "steps": 0, "begun": time.time()}
        self.stopping, self.driver_restarts = False, 0  # said's restarts are those of workers too, which have budgets
        self.lock = threading.Lock()
        self.log, self.output = job_log.Writer.open(self.folder / history.LOG), job_log.Writer(1)
        self.unkept, self.complained = "", False
        self.keeper: subprocess.Popen[bytes] | None = None
        self.keep_at = 0.0
        self.printed: dict[str, Any] = {}
        self.last_print = 0.0
        self.said_count, self.since_said = 0, 0
        self.reader = Reader(self.run_dir)
        self.reader.skip()
        self.state = State(plan["name"])

    def run(self) -> int:
        """Runs the driver until it ends by itself, is told to stop, or was killed too often; returns the exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        code = self._drive()
        while code < 0 and not self.stopping and self.driver_restarts < self.plan["restarts"]:
            self.driver_restarts += 1
            self.said["restarts"] += 1
            self.print(f"the driver was killed by signal {-code}; it goes on from the last checkpoint")
            time.sleep(PAUSE_SECONDS)
            if not self.stopping:
                code = self._drive()
        if code < 0 and not self.stopping:
            self.print(f"the driver was killed by signal {-code}, the last of {self.plan['restarts']} restarts")
        self.said["phase"] = "stopped" if self.stopping else ("done" if code == 0 else "failed")
        self.said |= {"ended": time.time(), "has_run": self._is_begun()}
        self.say(force=True)
        self._keep()
        _end_children()
        self.log.close()
        if self.folder != self.run_dir:
            shutil.rmtree(self.folder, ignore_errors=True)
        return 128 - code if code < 0 else code

    def _stop(self, number: int, frame: Any) -> None:
        """Notes that the job was told to stop; the jobs server signals the driver itself."""
        self.stopping = True

    def command(self) -> list[str]:
        """Gives the driver's command: a run that is there goes on, and refuses other settings than it began with.

        Raises ValueError where the job goes on with a run that is not there.
        """
        self._bring()
        words = [sys.executable, "-m", "eagerly", "train", self.plan["task"]]
        if not self._is_begun():
            if self.plan.get("again"):
                raise ValueError(
                    f"--again goes on with a run, and there is none in {str(self.run_dir)!r}; say with --run-dir or "
                    "--storage where it is, or submit it anew under another --name"
                )
            return [*words, *self.plan["flags"], "--run-dir", str(self.run_dir)]
        runs.relocate(self.run_dir, Path(self.plan["task"]))  # every submission has a folder of its own
        self.print(f"resumes the run in {self.run_dir}")
        return [*words, "--resume", str(self.run_dir), *self.plan["flags"]]

    def _is_begun(self) -> bool:
        return (self.run_dir / runs.ABOUT).exists()

    def _bring(self) -> None:
        """Brings a run, or what it did elsewhere since it was here, from its storage, as recovery.bring does."""
        address = next((flag.partition("=")[2] for flag in self.plan["flags"] if flag.startswith("--storage=")), "")
        if "://" in address:
            missing = recovery.bring(address, self.run_dir, self.print, lambda: self.stopping)
            self.reader.skip()
            if missing:
                self.print(missing if self.plan.get("again") else f"begins anew: {missing}")

    def _drive(self) -> int:
        """Runs the driver once; returns its exit code, negative for a signal."""
        try:
            command = self.command()
        except (OSError, ValueError) as problem:
            self.print(f"eagerly: {problem}")
            return 2
        if self.stopping:
            return -signal.SIGTERM
        driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
            env={"EAGERLY_JOB_SINCE": str(self.said["begun"]), **os.environ},  # one that is killed keeps its place
        )  # fmt: skip
        assert driver.stdout is not None
        listener = threading.Thread(target=self._listen, args=(driver.stdout,), daemon=True)
        listener.start()
        self.keep_at, self.state.waits_for = time.monotonic() + KEEP_AFTER_SECONDS, ""
        while driver.poll() is None:
            self._look()
            if self.stopping and self.said["phase"] != "stopped":
                self._part()
            self.say()
            if self.keeper is None and time.monotonic() > self.keep_at and self._has_run():
                self._start_keeper()
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(0.2)
        listener.join(2.0)
        self._look()
        return driver.returncode

    def _part(self) -> None:
        """Lets the keeper upload that the job was stopped while the driver still writes its checkpoint."""
        self.said |= {"phase": "stopped", "ended": time.time()}
        self.say(force=True)
        if self.keeper is not None and self.keeper.stdin is not None:
            self.keeper.stdin.close()

    def _listen(self, output: IO[str]) -> None:
        for line in output:
            if line.startswith(job_log.MARK):
                self.said |= job_log.read(line)
            else:
                self.print(line.rstrip("\n"))

    def _look(self) -> None:
        """Reads on in the journal."""
        for event in self.reader.new_events():
            self.state.take(event)
            if event["event"] == "restart":
                self.said["restarts"] += 1
            if event["event"] in ("starting", "loading", "start", "testing", "test") and not self.stopping:
                self.said["phase"] = self.state.phase
        if self.state.waits_for and not self.stopping:
            self.said["phase"] = "waiting"
        left = self.state.seconds_left()
        self.said |= {
            "waits_for": self.state.waits_for,
            "step": self.state.step,
            "steps": self.state.steps,
            "left_s": None if left is None else round(left),
        }
        if self.state.loss == self.state.loss:
            self.said["loss"] = round(self.state.loss, 4)
        if self._has_run() and "link" not in self.said:
            with contextlib.suppress(ValueError, KeyError):
                known = json.loads((self.run_dir / "mlflow.json").read_text())
                self.said["mlflow"] = known["run_id"]
                store = tracking.public(tracking.uri())
                self.said["link"] = tracking.link(store, known["experiment_id"], known["run_id"])

    def print(self, text: str) -> None:
        """Writes a line for people."""
        with self.lock:
            self.log.write(text)
            self.output.write(text)
            self.since_said += 1
            if self.since_said >= SAY_LINES:
                self._number()

    def say(self, force: bool = False) -> None:
        """Writes a line for programs, with all there is to say, when there is news; tries again what a disk refused."""
        now, has_news = time.monotonic(), self.said != self.printed
        pause = SAY_SECONDS if time.time() - self.said["begun"] < SELDOM_AFTER_SECONDS else SELDOM_SECONDS
        if (has_news or self._refused()) and (force or now - self.last_print >= pause):
            self.last_print = now
            if has_news:
                with self.lock:
                    self._number()
                self.printed = {**self.said}
            self._put()

    def _number(self) -> None:
        """Writes a numbered line for programs."""
        self.said_count, self.since_said = self.said_count + 1, 0
        self.output.write(job_log.line({**self.said, job_log.NUMBER: self.said_count}))

    def _put(self) -> None:
        """Writes the status, and what waits to be written; says once that a disk does not take them."""
        try:
            sealed.put(self.folder / history.STATUS, json.dumps(self.said))
            self.unkept = ""
        except OSError as problem:
            self.unkept = problem.strerror or str(problem)
        with self.lock:
            self.log.retry()
            self.output.retry()
        if self._refused():
            self._complain(self._refused())

    def _refused(self) -> str:
        """Says why something waits to be written; empty where nothing does."""
        return self.unkept or self.log.problem or self.output.problem

    def _complain(self, problem: str) -> None:
        if not self.complained:
            self.complained = True
            self.print(f"the job's log and status cannot be written ({problem}); it goes on, and tries again")

    def _has_run(self) -> bool:
        return (self.run_dir / "mlflow.json").exists()

    def _settle(self) -> None:
        """Moves the log into the run's folder, once there is one. Raises OSError where the disk is full."""
        if self.folder != self.run_dir and self._is_begun():
            with self.lock:
                rough = self.folder
                self.log.move(self.run_dir / history.LOG)
                self.folder = self.run_dir
                shutil.rmtree(rough, ignore_errors=True)
            self._put()

    def _start_keeper(self) -> None:
        try:
            self._settle()
        except OSError as problem:
            self._complain(problem.strerror or str(problem))
            self.keep_at = time.monotonic() + KEEP_AFTER_SECONDS
            return
        paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipelines.history", str(self.folder)],
            cwd=os.environ.get("EAGERLY_JOB_FOLDER") or None, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.setpriority(os.PRIO_PROCESS, self.keeper.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)

    def _keep(self) -> None:
        """Lets the keeper upload a last time; one that would have to be started takes too long for a stop."""
        if self.keeper is None and not self.stopping:
            self._start_keeper()
        if self.keeper is not None and self.keeper.stdin is not None:
            self.keeper.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.keeper.wait(LAST_SECONDS if self.stopping else UPLOAD_SECONDS)


def _adopt() -> None:
    """Makes this process the parent of what a killed driver leaves behind, so that a stop finds it."""
    with contextlib.suppress(OSError, AttributeError):  # of Linux alone
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def _end_children() -> None:
    """Ends what is left below this process, such as the recorder of a driver that was killed."""
    import psutil

    left = psutil.Process().children(recursive=True)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=1)


def main(words: list[str]) -> int:
    """Supervises the job of one plan, given as JSON."""
    _adopt()
    return Supervisor(json.loads(words[0])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
