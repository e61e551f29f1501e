"""Kills runs without warning and shows that each ends with the very state of one that nothing disturbed.

    python -m benchmarks.kills [--kills 100] [--seed N] [--only classifier] [--keep-folders]

Runs of the three tasks, of one and of two plain processes under gloo, get SIGKILL at moments drawn from the printed
seed: one rank or all, at any time, and half of them while a checkpoint is being written. Each run is started again
by the same call and killed again, a few times, and then left alone to its end, where the SHA-256 over its weights,
optimizer, counters and test metrics must be that of the undisturbed run. A kill was inside a write if the dead
process left a half-written folder behind. As a control, one bit of one weight is flipped in a checkpoint whose
manifest is made to fit: that run must end with another digest. Raw results go to benchmarks/results/kills.json.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import killed, runs
from eagerly import table
from pipelines import tasks
from pipelines.journal import Reader
from pipelines.tasks import TASKS

RESULTS = Path("benchmarks/results")
PER_RUN = 5
"""Most kills of one run, which is then left alone."""
LEAST_INSIDE = 0.2
HORIZON = 0.5
"""Share of an undisturbed run's time within which a kill falls."""
PATIENCE_SECONDS = 300
PRELOADED = ["benchmarks.killed", "torch._dynamo", "torch.distributed.tensor", "sklearn.datasets"]
TEXTS = 800
"""Lines of the embedded sample that the text classifier learns from."""


@dataclass(frozen=True)
class Case:
    """Runs that are killed."""

    word: str
    world: int
    flags: dict[str, Any]
    steps: int = 2
    """Steps between checkpoints."""

    @property
    def name(self) -> str:
        """Names it in the table."""
        return f"{self.word} x {self.world}"


CLASSIFIER = {"epochs": 4, "batch_size": 256, "accumulate": 2, "amp": True, "dropout": 0.2, "early_stopping": 3}
SENTIMENT = {"epochs": 4, "batch_size": 64, "ngrams": 4096, "vocabulary": 500, "width": 16, "clip": 1.0}
RECOMMENDER = {"epochs": 4, "batch_size": 128, "dim": 32, "buckets": 512, "accumulate": 3}
CASES = tuple(
    Case(word, world, flags, steps)
    for world in (1, 2)
    for word, flags, steps in (
        ("classifier", CLASSIFIER, 2),
        ("sentiment", SENTIMENT, 3),
        ("recommender", RECOMMENDER, 3),
    )
)
"""Batch norm, dropout, augmentation, bfloat16, accumulation, clipping and early stopping are all among them."""


@dataclass
class Tally:
    """What came of a case."""

    name: str
    digest: str
    """Of the undisturbed run."""
    seconds: float
    """How long that took."""
    write_seconds: float
    """How long a checkpoint's writing took; kills inside one are spread over it."""
    kills: int = 0
    inside: int = 0
    runs: int = 0
    differing: list[str] = field(default_factory=list)
    """Digests of disturbed runs that ended otherwise."""


class Group:
    """The processes of one run, started from a server that has imported everything."""

    def __init__(self, case: Case, folder: Path) -> None:
        """Starts them."""
        context = multiprocessing.get_context("forkserver")
        files = [f"pipelines.{word}.{file}" for word in TASKS for file in ("data", "model", "train")]
        context.set_forkserver_preload([*PRELOADED, *files])
        meeting = tempfile.mktemp(prefix="meeting-", dir=folder.parent)
        words = (case.world, meeting, str(folder), case.word, case.flags | _data(case, folder.parent), case.steps)
        self.processes = [
            context.Process(target=killed.train, args=(rank, *words), daemon=True) for rank in range(case.world)
        ]
        for process in self.processes:
            process.start()

    def is_alive(self) -> bool:
        """Whether one of them is left."""
        return any(process.is_alive() for process in self.processes)

    def kill(self, ranks: list[int], grace_seconds: float = 0.0) -> None:
        """Sends SIGKILL to ranks, and after a grace to those that outlived them."""
        for rank in ranks:
            self.processes[rank].kill()
        until = time.monotonic() + grace_seconds
        while self.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        for process in self.processes:
            process.kill()
            process.join()

    def finish(self) -> None:
        """Waits for the end; raises RuntimeError when one failed."""
        for process in self.processes:
            process.join(PATIENCE_SECONDS)
        codes = [process.exitcode for process in self.processes]
        if any(codes):
            self.kill([])
            raise RuntimeError(f"the processes ended with {codes}")


def _data(case: Case, folder: Path) -> dict[str, str]:
    """Makes the texts few, since learning a vocabulary takes seconds at every start."""
    if case.word != "sentiment":
        return {}
    place = folder / "texts.csv"
    if not place.exists():
        lines = (Path(tasks.__file__).parent / "sentiment" / "sample" / "sentence-polarity.csv").read_text()
        header, *rows = lines.splitlines()
        place.write_text("\n".join([header, *rows[:: len(rows) // TEXTS]]) + "\n")
    return {"data": str(place)}


def undisturbed(case: Case, folder: Path) -> Tally:
    """Trains a run that nothing disturbs."""
    Group(case, folder).finish()
    first, *_, last = Reader(folder).new_events()
    writes = [event["seconds"] for event in runs.events(folder, "checkpoint")]
    return Tally(case.name, digest(folder), last["time"] - first["time"], statistics.median(writes))


def digest(folder: Path) -> str:
    """Reads the digest of a run's final state from its journal."""
    return runs.events(folder, "state")[-1]["digest"]


def disturbed(case: Case, folder: Path, tally: Tally, draw: random.Random, most: int) -> None:
    """Kills a run up to `most` times, lets it end, and compares."""
    kills = 0
    while kills < most:
        before = rough(folder)
        if not _strike(Group(case, folder), folder, draw, tally):
            break
        kills += 1
        tally.inside += bool(rough(folder) - before)
    tally.kills += kills
    tally.runs += 1
    Group(case, folder).finish()
    if digest(folder) != tally.digest:
        tally.differing.append(digest(folder))


def _strike(group: Group, folder: Path, draw: random.Random, tally: Tally) -> bool:
    """Kills at a moment drawn, or within the write that comes next; tells whether there was still one to kill."""
    inside, ranks = draw.random() < 0.5, list(range(len(group.processes)))
    at = time.monotonic() + draw.uniform(0.0, tally.seconds * HORIZON)
    victims = ranks if inside else draw.choice([ranks, *([rank] for rank in ranks)])
    later, grace = draw.uniform(0.0, tally.write_seconds), draw.choice([0.0, 0.5])
    while time.monotonic() < at and group.is_alive():
        time.sleep(0.001)
    before = rough(folder)
    while inside and group.is_alive() and not rough(folder) - before:
        pass
    if inside:
        time.sleep(later)
    was_alive = group.is_alive()
    group.kill(victims, grace)
    return was_alive


def rough(folder: Path) -> set[str]:
    """Names the checkpoints that are half-written."""
    return {path.name for path in (folder / "checkpoints").glob(".step-*.rough")}


def control(case: Case, whole: Path, folder: Path, tally: Tally) -> bool:
    """Flips one bit of one weight in the last but one checkpoint of a run, and tells whether the comparison sees it."""
    place = sorted(whole.glob("checkpoints/step-*"))[-2]
    shutil.copytree(place, folder / "checkpoints" / place.name)
    flip(folder / "checkpoints" / place.name)
    Group(case, folder).finish()
    return digest(folder) != tally.digest


def flip(place: Path) -> None:
    """Flips the lowest bit of one weight in a checkpoint and makes the manifest fit."""
    from pipelines import sealed

    path, manifest = place / "tensors.safetensors", place / sealed.MANIFEST
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(key for key in sorted(header) if key.startswith("/network/") and header[key]["dtype"] == "F32")
    content[8 + length + header[name]["data_offsets"][0]] ^= 1
    path.write_bytes(content)
    facts = json.loads(manifest.read_text())
    facts["files"][path.name] = sealed.hash_file(path)
    manifest.write_text(json.dumps(facts))


def play(cases: list[Case], kills: int, seed: int, folder: Path) -> tuple[list[Tally], bool]:
    """Kills runs of the cases in turn until there were enough; tells also whether the control was seen."""
    draw = random.Random(seed)
    tallies = []
    for number, case in enumerate(cases):
        tallies.append(undisturbed(case, folder / f"whole-{number}"))
        print(f"{case.name}: undisturbed in {tallies[-1].seconds:.1f} s, {tallies[-1].digest[:16]}", flush=True)
    number = 0
    while (done := sum(tally.kills for tally in tallies)) < kills:
        case, tally = cases[number % len(cases)], tallies[number % len(cases)]
        disturbed(case, folder / f"disturbed-{number}", tally, draw, min(PER_RUN, kills - done))
        print(f"{case.name}: {tally.kills} kills, {tally.inside} inside a write, {tally.differing}", flush=True)
        number += 1
    return tallies, control(cases[0], folder / "whole-0", folder / "control", tallies[0])


def main(words: list[str]) -> int:
    """Runs it; returns 1 unless every digest is the undisturbed one's and the control's is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")))
    parser.add_argument("--only", default="", help="cases whose name contains this, such as 'x 2'")
    parser.add_argument("--keep-folders", action="store_true")
    arguments = parser.parse_args(words)
    print(f"seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="eagerly-kills-"))
    cases = [case for case in CASES if arguments.only in case.name]
    tallies, seen = play(cases, arguments.kills, arguments.seed, folder)
    if not arguments.keep_folders:
        shutil.rmtree(folder)
    kills, inside = sum(tally.kills for tally in tallies), sum(tally.inside for tally in tallies)
    rows = [[one.name, one.runs, one.kills, one.inside, len(one.differing), one.digest[:16]] for one in tallies]
    print(table.render(["run", "disturbed", "kills", "inside a write", "ended otherwise", "digest"], rows))
    RESULTS.mkdir(exist_ok=True)
    facts = {"seed": arguments.seed, "control_seen": seen, "cases": [asdict(tally) for tally in tallies]}
    (RESULTS / "kills.json").write_text(json.dumps(facts, indent=2))
    differing = sum(len(tally.differing) for tally in tallies)
    flipped = "another digest" if seen else "THE SAME DIGEST"
    print(f"{kills} kills, {inside} inside a write, {differing} runs ended otherwise; one flipped bit: {flipped}")
    return int(differing > 0 or not seen or inside < LEAST_INSIDE * kills)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
