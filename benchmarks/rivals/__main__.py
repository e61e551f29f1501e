"""Our loop against Lightning, Accelerate with a plain loop, and Hugging Face's Trainer: time and peak memory.

    python -m benchmarks.rivals --install
    python -m benchmarks.rivals --rivals lightning,accelerate,trainer --tasks classifier,sentiment --pairs 9

Each trains the same network with the same loss, batches, epochs, fused optimizer and schedule, each in a process of its
own in one environment with the same PyTorch (benchmarks/rivals/requirements.txt); ours has its defaults, guards on.
The clock runs from the first batch to the end of the last step: start, imports and evaluation are off it. Memory is
the most that the process ever held (ru_maxrss), imports and data included. Within each pair the two run one after the
other, in alternating order. A ratio's interval is a bootstrap over the pairs; raw results go to
benchmarks/results/rivals.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

from benchmarks.serving import interval

HERE = Path("benchmarks/rivals")
RIVALS = ("lightning", "accelerate", "trainer")
EPOCHS = {"classifier": 10, "sentiment": 4}
KEPT = Path("benchmarks/results/rivals.json")
Figures = dict[str, float]
HEAD = (
    "| task | rival | rival s | ours s | ratio (95 %) | rival MB | ours MB | ratio (95 %) | accuracies |\n"
    + "|---" * 9
    + "|"
)


def main() -> None:
    """Measures every task and rival, and prints a row as soon as it is known; 1 when ours is behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make the environment, and measure nothing")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="which, separated by commas")
    parser.add_argument("--tasks", default=",".join(EPOCHS), help="which, separated by commas")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=0, help="0 takes 10 for the classifier and 4 for sentiment")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("seconds", "cpu_seconds"), default="seconds")
    arguments = parser.parse_args()
    install()
    if arguments.install:
        return
    print(HEAD)
    behind = False
    for task in arguments.tasks.split(","):
        for rival in arguments.rivals.split(","):
            pairs = [_pair(number, task, rival, arguments) for number in range(arguments.pairs)]
            print(_row(task, rival, pairs, arguments.clock), flush=True)
            _keep(task, rival, pairs)
            behind |= any(mean(_ratios(pairs, key)) > 1 for key in (arguments.clock, "peak_mb"))
    sys.exit(behind)


def python() -> Path:
    """The rivals' Python, under EAGERLY_HOME/peers or ~/.cache/eagerly-peers."""
    home = os.environ.get("EAGERLY_HOME")
    return (Path(home) / "peers" if home else Path.home() / ".cache" / "eagerly-peers") / "rivals" / "bin" / "python"


def install() -> None:
    """Makes the rivals' environment from its pinned requirements, unless it is there."""
    place = python().parent.parent
    if (place / "installed").exists():
        return
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
    options = ["--quiet", "--python", str(python()), "--compile-bytecode", "--require-hashes"]
    subprocess.run([uv, "pip", "install", *options, "-r", str(HERE / "requirements.txt")], check=True)
    (place / "installed").touch()


def _pair(number: int, task: str, rival: str, arguments: argparse.Namespace) -> tuple[Figures, Figures]:
    """Trains with both, the rival first in even pairs."""
    order = (rival, "eagerly") if number % 2 == 0 else ("eagerly", rival)
    found = {name: _train(name, task, arguments.epochs or EPOCHS[task], arguments.threads) for name in order}
    said = ", ".join(f"{name} {found[name][arguments.clock]:.2f} s" for name in (rival, "eagerly"))
    print(f"{task}: {said}", file=sys.stderr, flush=True)
    return found[rival], found["eagerly"]


def _train(name: str, task: str, epochs: int, threads: int) -> Figures:
    with tempfile.TemporaryDirectory() as scratch:
        words = [f"benchmarks.rivals.with_{name}", task, str(epochs), str(threads), scratch]
        settings = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [str(python()), "-m", *words]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _ratios(pairs: list[tuple[Figures, Figures]], key: str) -> list[float]:
    return [ours[key] / theirs[key] for theirs, ours in pairs]


def _row(task: str, rival: str, pairs: list[tuple[Figures, Figures]], clock: str) -> str:
    parts = []
    for key, places in ((clock, 2), ("peak_mb", 0)):
        ratios = _ratios(pairs, key)
        low, high = interval(ratios)
        theirs, ours = (median(pair[side][key] for pair in pairs) for side in (0, 1))
        parts += [f"{theirs:.{places}f}", f"{ours:.{places}f}", f"{mean(ratios):.3f} ({low:.3f} to {high:.3f})"]
    accuracies = " and ".join(f"{mean(pair[side]['accuracy'] for pair in pairs):.4f}" for side in (0, 1))
    return f"| {task} | {rival} | {' | '.join(parts)} | {accuracies} |"


def _keep(task: str, rival: str, pairs: list[tuple[Figures, Figures]]) -> None:
    """Writes the raw figures beside those of earlier runs with other rivals or tasks."""
    KEPT.parent.mkdir(exist_ok=True)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept.setdefault(task, {})[rival] = [{"rival": theirs, "ours": ours} for theirs, ours in pairs]
    KEPT.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
