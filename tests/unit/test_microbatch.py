"""Micro-batches as large as fit, tried out before the first step, and the same global batch whatever they are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from torch import nn
from training import PLAIN, REGRESSION

from pipelines import microbatch, passes, tasks
from pipelines.place import Place

MIB = 1 << 20


def test_a_micro_batch_changes_neither_the_batch_nor_what_is_learned(tmp_path: Path) -> None:
    whole = training.train(tmp_path / "whole", **PLAIN, epochs=1)
    parts = training.train(tmp_path / "parts", **PLAIN, epochs=1, micro_batch=20)
    assert parts.named("micro_batch")[0] == {"event": "micro_batch", "examples": 20, "accumulate": 4}
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5)


def test_what_fits_whole_is_computed_whole_and_a_resumed_run_tries_nothing(tmp_path: Path) -> None:
    flags = PLAIN | {"epochs": 1, "micro_batch": "auto"}
    training.stop(tmp_path, stop_at=15, checkpoint_steps=10, **flags)
    assert json.loads((tmp_path / "choices.json").read_text()) == {"micro_batch": 64}
    (tmp_path / "choices.json").write_text('{"micro_batch": 32}')
    resumed = training.train(tmp_path, checkpoint_steps=10, **flags)
    assert resumed.named("micro_batch") == [{"event": "micro_batch", "examples": 32, "accumulate": 2}]


def test_all_ranks_take_the_same_micro_batch(tmp_path: Path, pair: training.Pair) -> None:
    settings = PLAIN | {"epochs": 1, "micro_batch": "auto"}
    both = pair.run(training.train_ranked, tmp_path / "auto", settings)
    one = pair.run(training.train_ranked, tmp_path / "one", settings | {"micro_batch": 0})
    assert both[0].named("micro_batch")[0]["examples"] == 32
    assert both[0].losses == one[0].losses


@pytest.mark.skipif(sys.platform != "linux", reason="no such limits")
def test_a_limit_of_memory_is_kept_by_smaller_micro_batches(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=training.ROOT)
    found = json.loads(done.stdout)
    assert found["peak_bytes"] <= found["limit_bytes"] < 300 * MIB
    assert 2 <= found["examples"] <= 512  # 1 MiB an example and layer, 3 layers


def test_a_peak_is_the_most_that_tensors_held_at_a_time() -> None:
    with microbatch.Peak() as peak:
        kept = torch.ones(MIB)
        for _ in range(3):
            kept = kept + 1
        view = kept[:10]
    assert view.sum() > 0
    assert peak.most == 8 * MIB
    assert peak.now == 4 * MIB


def test_a_network_that_fits_nowhere_is_a_sentence() -> None:
    task = tasks.find(REGRESSION)
    config = task.config.Config()
    data = task.data.load(config)
    work = passes.Workload(task.train.loss, data.train, config, Place(), torch.no_grad)
    with pytest.raises(ValueError, match=r"--micro-batch auto: 2 examples of this network do not fit the 0 MiB"):
        microbatch.largest(Endless(), work, neighbours=1)


class Endless(nn.Module):
    """A network whose weights alone are larger than any memory, as far as numbers go."""

    def parameters(self, recurse: bool = True) -> Any:
        return iter([nn.Parameter(torch.empty(1 << 50, device="meta"))])


LIMITED = f"""
import json, resource, sys, torch
from dataclasses import dataclass
from torch import nn
from pipelines import microbatch, numerics, passes
from pipelines.place import Place
from pipelines.settings import Settings
class Rows:
    lengths = None
    def __len__(self): return 2048
    def batch(self, index_B, draw): return torch.ones(len(index_B), {MIB} // 4)
class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, rows):
        return ((rows * self.scale).tanh() * self.scale).tanh()
work = passes.Workload(lambda network, rows: network(rows).mean(), Rows(), Settings(batch_size=2048), Place(),
                       numerics.autocast(Settings(), torch.device("cpu")))
pages = [int(number) for number in open("/proc/self/statm").read().split()]
resource.setrlimit(resource.RLIMIT_DATA, (pages[5] * 4096 + 300 * {MIB}, -1))
print(json.dumps(microbatch.largest(Wide(), work, 1)[1]))
"""
