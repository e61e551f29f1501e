"""What a model made of each test example: kept in the run folder, so that the gate can compare two models.

Shapes: B examples of a batch, N of the test split, C labels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines import collectives
from pipelines.examples import Data

FILE = "examples.safetensors"
WHOLE = ("target", "guess")
"""Columns of whole numbers: which label is true, and which came first."""
SLICE, PRINT, SEEN = "slice.", "fingerprint", "learned_from"
"""Names of what lies in the file beside the columns; the first is followed by a kind of slices."""
Prints = tuple[Tensor, Tensor]
Slices = Mapping[str, Sequence[str]]
"""By kind, as `language`, the name of the slice that each test example belongs to."""


@dataclass(frozen=True)
class Results:
    """What a run's model made of its test split, in the order of the split."""

    columns: dict[str, NDArray[Any]]
    """By name, a number for each example [N]: of a task with logits `of_logits`, else what its `examined` gives."""
    labels: list[str]
    """Names of the labels, in the order of `target`; empty where the data has none."""
    slices: dict[str, tuple[list[str], NDArray[Any]]]
    """By kind, the names of its slices, and which of them each example belongs to [N]."""
    data_digest: str
    prints: NDArray[np.int64] | None = None
    """Fingerprints of the test examples [N], where the task gives them."""
    seen: NDArray[np.int64] | None = None
    """Fingerprints of the examples that the model learned from or was chosen by."""

    def __len__(self) -> int:
        """How many test examples there are."""
        return len(next(iter(self.columns.values())))


def of_logits(logits_BC: Tensor, label_B: Tensor) -> dict[str, Tensor]:
    """Says of each example which label is true and which came first, how sure that was, and two proper scores.

    The scores are the cross entropy (`loss`) and that of Brier, "Verification of forecasts expressed in terms of
    probability" (1950), 0 to 2; float64 [B] each.
    """
    share_BC = logits_BC.double().softmax(1)
    true_B = share_BC.gather(1, label_B[:, None])[:, 0]
    return {
        "target": label_B.double(),
        "guess": logits_BC.argmax(1).double(),
        "confidence": share_BC.max(1).values,
        "brier": share_BC.square().sum(1) - 2 * true_B + 1,
        "loss": F.cross_entropy(logits_BC.double(), label_B, reduction="none"),
    }


def gather(parts: list[dict[str, Tensor]], own: list[Tensor], count: int, world: int) -> dict[str, Tensor]:
    """Puts all ranks' columns together, in the order of the split; float64 [N] each, the same on every rank.

    `own` lists the places that a rank's parts are of, in their order, however they are batched; of parts beyond them,
    as a rank without any place gives, only names count.
    """
    names = sorted(parts[0])
    table_NM = torch.zeros(count, len(names), dtype=torch.float64, device=parts[0][names[0]].device)
    if own:
        index_N = torch.cat(own).to(table_NM.device)
        columns = [torch.cat([part[name].double() for part in parts])[: len(index_N)] for name in names]
        table_NM[index_N] = torch.stack(columns, 1)
    collectives.sum_over_ranks(table_NM, world)
    return dict(zip(names, table_NM.cpu().unbind(1), strict=True))


def write(folder: Path, columns: Mapping[str, Tensor], data: Data, slices: Slices, prints: Prints | None) -> None:
    """Writes the results of a run into its folder; raises ValueError for slices that do not fit the test split.

    `prints` are fingerprints of what was learned from, and of the test split.
    """
    kept = {name: column_N.to(torch.int32 if name in WHOLE else torch.float64) for name, column_N in columns.items()}
    facts = {"labels": list(getattr(data, "labels", [])), "data_digest": data.digest}
    kinds: dict[str, list[str]] = {}
    for kind, slice_N in slices.items():
        if len(slice_N) != len(data.test):
            raise ValueError(
                f"slices() gives {len(slice_N)} names of {kind!r}; the test split has {len(data.test)} examples"
            )
        kinds[kind] = sorted(set(slice_N))
        place = {name: at for at, name in enumerate(kinds[kind])}
        kept[SLICE + kind] = torch.tensor([place[name] for name in slice_N], dtype=torch.int32)
    kept |= dict(zip((SEEN, PRINT), prints, strict=True)) if prints else {}
    told = {name: json.dumps(value, ensure_ascii=False) for name, value in {**facts, "slices": kinds}.items()}
    save_file({name: value.cpu().contiguous() for name, value in kept.items()}, folder / FILE, told)


def read(folder: Path) -> Results | None:
    """Reads what `write` wrote; None where there is nothing. Raises ValueError for a file that is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            told = {name: json.loads(value) for name, value in file.metadata().items()}
            found: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        slices = {kind: (names, found.pop(SLICE + kind)) for kind, names in told["slices"].items()}
        prints, seen = found.pop(PRINT, None), found.pop(SEEN, None)
        return Results(found, told["labels"], slices, told["data_digest"], prints, seen)
    except Exception as problem:  # whatever a damaged file makes the reader say
        raise ValueError(f"{str(path)!r} cannot be read: {problem}") from problem


def bands(numbers: Sequence[float], edges: Sequence[int], unit: str) -> list[str]:
    """Names the range that each number is in: up to the first edge, then from edge to edge, then over the last."""
    names = [f"up to {edges[0]} {unit}"]
    names += [f"{low + 1} to {high} {unit}" for low, high in pairwise(edges)]
    names += [f"over {edges[-1]} {unit}"]
    return [names[at] for at in np.searchsorted(edges, numbers).tolist()]
