"""torchrun's processes that run out of memory together end with a sentence that says how the run goes on."""

import json
import shutil
from pathlib import Path

from trained import ROOT, python

FULL = """

class Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory")


def loss(network, batch):
    return Full.apply(functional.mse_loss(network(batch[0]), batch[1]))
"""


def test_ranks_that_run_out_of_memory_while_they_average_end_with_a_sentence(tmp_path: Path) -> None:
    place = tmp_path / "short"
    shutil.copytree(ROOT / "examples" / "linear_regression", place, ignore=shutil.ignore_patterns("__pycache__"))
    with (place / "train.py").open("a") as file:
        file.write(FULL)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = python(*launch, "-m", "eagerly", "train", str(place), "--run-dir", "run", folder=tmp_path)
    assert ended.returncode == 1
    said = [
        line for line in ended.stderr.splitlines() if line.startswith("eagerly: out of memory while ranks averaged")
    ]
    assert said and said[0].endswith(f"into 2 pieces; `--resume {tmp_path}/run` resumes it")
    assert "pipelines.memory.Exhausted" not in ended.stderr
    assert json.loads((tmp_path / "run" / "memory.json").read_text()) == {"pieces": 2}
