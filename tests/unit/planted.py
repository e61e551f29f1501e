"""Tasks of five points with something planted in their network, for inspection to find."""

import shutil
from pathlib import Path

from training import REGRESSION

from pipelines import tasks
from pipelines.tasks import Task

MODEL = '''"""A network with something in it."""

import torch
import torch.distributed as dist
from torch import nn


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        {odd}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.odd, self.last = nn.Linear(1, 3), Odd(), nn.Linear(3, 1)

    def forward(self, x):
        {network}


class Model:
    def __init__(self):
        self.network = Network()

    @classmethod
    def create(cls, config, data):
        return cls()

    def to(self, device):
        self.network.to(device)
        return self
'''
PLAIN = "return self.last(self.odd(self.first(x)))"


def plant(folder: Path, name: str, odd: str = "return x * self.scale", network: str = PLAIN) -> Task:
    """Makes a task whose network has the given code in its module `odd`, or in its own `forward`."""
    place = folder / name
    shutil.copytree(REGRESSION, place, ignore=shutil.ignore_patterns("__pycache__"))
    indented = [code.replace("\n", "\n        ") for code in (odd, network)]
    (place / "model.py").write_text(MODEL.format(odd=indented[0], network=indented[1]))
    return tasks.find(str(place))


def line_of(task: Task, code: str) -> str:
    """Says where in a planted network some code stands, as inspection writes it."""
    lines = (task.folder / "model.py").read_text().splitlines()
    return f"{task.name}/model.py:{next(at for at, line in enumerate(lines, 1) if code in line)} forward"
