"""The driver of a run is killed: no worker goes on, and `--resume` ends with the undisturbed run's weights.

`python -m benchmarks.orphans [--workers 2]` trains the parity example through `eagerly train` twice, each with a Ray
cluster of its own; SIGKILLs the second's driver in mid-run, times how long its workers live, and resumes it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from benchmarks import runs as logs

PARITY = str(Path(__file__).resolve().parents[1] / "examples" / "parity")
FLAGS = ["--epochs", "60", "--threads", "1", "--checkpoint-steps", "10", "--promote", "never"]
KILL_STEP = 60
LIMIT_SECONDS = 10.0
PATIENCE_SECONDS = 300.0


def kill(folder: Path, words: list[str]) -> float:
    """Starts a run, kills its driver in mid-run, and gives the seconds for which its workers live on."""
    driver = subprocess.Popen([sys.executable, *words], cwd=folder, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(event["first"] >= KILL_STEP for event in logs.events(folder / "killed", "steps")):
        if time.monotonic() > deadline or driver.poll() is not None:
            sys.exit("the run took no steps")
        time.sleep(0.02)
    family = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in family if "RayTrainWorker" in " ".join(process.cmdline())]
    driver.kill()
    killed, began = time.time(), time.monotonic()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_SECONDS)
    seconds = time.monotonic() - began
    last = logs.events(folder / "killed", "steps")[-1]["time"] - killed
    print(f"{len(workers)} workers, {len(alive)} still alive; their last step was {last:.1f} s after the kill")
    _, others = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    print(f"all {len(family)} processes were gone after {time.monotonic() - began:.1f} s; {len(others)} were not")
    return seconds


def main() -> None:
    """Runs, kills, resumes and compares; exits with 1 when workers outlive their driver or the weights differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="2")
    folder = Path(tempfile.mkdtemp(prefix="eagerly-orphans-"))
    train = ["-m", "eagerly", "train", PARITY, "--workers", parser.parse_args().workers, *FLAGS]
    os.environ.pop("RAY_ADDRESS", None)
    logs.execute([*train, "--run-dir", "whole"], folder)
    seconds = kill(folder, [*train, "--run-dir", "killed"])
    print(f"workers outlived their driver by {seconds:.1f} s; asked {LIMIT_SECONDS}")
    logs.execute(["-m", "eagerly", "train", "--resume", "killed"], folder)
    whole, killed = (load_file(folder / name / "artifact" / "model.safetensors") for name in ("whole", "killed"))
    same = all(torch.equal(value, killed[name]) for name, value in whole.items())
    resumed = logs.events(folder / "killed", "resume")
    print(f"resumed at step {resumed[-1]['step']}; weights are {'the same' if same else 'NOT the same'} bit for bit")
    sys.exit(not same or seconds > LIMIT_SECONDS)


if __name__ == "__main__":
    main()
