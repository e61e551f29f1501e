"""From submitting a job to its first step: ours against a bare TorchTrainer submitted with Ray's own command.

    python -m benchmarks.submit [--pairs 5]

Starts one local cluster with `eagerly cluster up`, warms it with a job of each kind, and then alternates pairs:
`eagerly submit sentiment` (first step by the journal's time) and `ray job submit` of a script whose train function
loads the same data, makes the same model and takes the same first step with plain PyTorch. Both begin before the
command's own process starts. Prints the difference in seconds with a 95 % bootstrap interval over the pairs; the exit
code is 1 when its mean is above 3 s.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import runs
from benchmarks.serving import interval
from pipelines import bundle

LIMIT_S, PATIENCE_S = 3.0, 300.0
RESULTS = Path("benchmarks/results/submit.json")
BARE = """
import sys, time
from pathlib import Path

def work(settings):
    import torch
    import torch.nn.functional as F
    from pipelines import tasks
    from pipelines.batches import training
    from pipelines.examples import Draw
    task = tasks.find("sentiment")
    torch.set_num_threads(1)
    config = task.config.Config()
    data = task.data.load(config)
    torch.manual_seed(0)
    network = task.model.Model.create(config, data).network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    batch_B = training(0, 0, len(data.train), config.batch_size, data.train.lengths)[0]
    *inputs, label_B = data.train.batch(batch_B, Draw(0, 0))
    loss = F.cross_entropy(network(*inputs).float(), label_B)
    loss.backward()
    optimizer.step()
    Path(settings["first"]).write_text(repr(time.time()))

if __name__ == "__main__":
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    first, storage = sys.argv[1:]
    TorchTrainer(
        work, train_loop_config={"first": first}, scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="bare", storage_path=storage),
    ).fit()
"""


class Bench:
    """A cluster, a working folder, and the code that both jobs send."""

    def __init__(self, folder: Path, code: Path) -> None:
        """Starts the cluster."""
        self.folder, self.code = folder, code
        self.settings = {**os.environ, "EAGERLY_HOME": str(folder / "home"), "PYTHONPATH": str(Path.cwd())}
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE"):
            self.settings.pop(name, None)
        (code / "bare.py").write_text(BARE)
        self.eagerly("cluster", "up", "--port", "0")
        local = json.loads((folder / "home" / "cluster.json").read_text())
        self.address, self.settings["RAY_AUTH_TOKEN_PATH"] = local["address"], local["token"]
        self.settings["RAY_AUTH_MODE"] = "token"

    def eagerly(self, *words: str) -> None:
        """Runs `eagerly WORDS`."""
        self._run([sys.executable, "-m", "eagerly", *words])

    def ours(self, name: str) -> float:
        """Gives the seconds from the command to the first step of our loop; the job is stopped then."""
        began = time.time()
        self.eagerly("submit", "sentiment", "--threads", "1", "--name", name, "--promote", "never")
        run_dir = self.folder / "runs" / name
        self._wait(lambda: bool(runs.events(run_dir, "steps")))
        first = runs.events(run_dir, "steps")[0]["time"]
        self.eagerly("jobs", "stop", name)
        return first - began

    def bare(self, name: str) -> float:
        """Gives the seconds from Ray's command to the first step of a bare TorchTrainer; waits for its end."""
        mark = self.folder / f"{name}.first"
        began = time.time()
        words = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.address]
        words += ["--submission-id", name, "--working-dir", str(self.code)]
        self._run([*words, "--", "python", "bare.py", str(mark), str(self.folder / "bare")])
        return float(mark.read_text()) - began

    def _wait(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                self.eagerly("cluster", "down")
                sys.exit("no first step came")
            time.sleep(0.2)

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(
            words, cwd=self.folder, env=self.settings, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        if done.returncode:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def main() -> int:
    """Alternates the two and prints each pair, the difference and its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--no-warm-up", action="store_true", help="measure from the first pair on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eagerly-submit-") as folder, bundle.made("sentiment") as code:
        bench = Bench(Path(folder), code.folder)
        try:
            pairs = _measure(bench, args.pairs, not args.no_warm_up)
        finally:
            bench.eagerly("cluster", "down")
    differences = [ours - bare for ours, bare in pairs]
    mean, (low, high) = statistics.mean(differences), interval(differences)
    print(f"beyond the bare trainer: {mean:+.2f} s, 95 % from {low:+.2f} to {high:+.2f}; at most {LIMIT_S:.0f} s asked")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"pairs_s": pairs, "mean_s": mean, "low_s": low, "high_s": high}, indent=2) + "\n")
    return int(mean > LIMIT_S)


def _measure(bench: Bench, count: int, warm_up: bool) -> list[tuple[float, float]]:
    if warm_up:
        bench.bare("bare-warm")
        bench.ours("ours-warm")
    pairs = []
    for number in range(count):
        if number % 2:
            bare_s, ours_s = bench.bare(f"bare-{number}"), bench.ours(f"ours-{number}")
        else:
            ours_s, bare_s = bench.ours(f"ours-{number}"), bench.bare(f"bare-{number}")
        pairs.append((ours_s, bare_s))
        print(f"pair {number}: ours {ours_s:.2f} s, bare {bare_s:.2f} s, {ours_s - bare_s:+.2f} s", flush=True)
    return pairs


if __name__ == "__main__":
    sys.exit(main())
