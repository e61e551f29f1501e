"""The Serve endpoint against bare grpc.aio with the same batching, contract, model and threads (the floor).

    python -m benchmarks.serving --pairs 9
    python -m benchmarks.serving --pairs 9 --all
    python -m benchmarks.serving --pairs 9 --loads 32 --features log traces

With --all the endpoint follows a registry, checks tokens, writes an access log, traces 1 % of the calls, watches
drift, abstains, answers probes and runs the model by the path that it finds fastest, as it does unless told otherwise;
with --features it does what is named. The floor does none of it, but chooses a path too with --same-path. Both are
sent the same calls, the token included. The model is the classifier's ConvNet on 28x28 raw images; ghz, a compiled
client, is on the same cores; N clients are N connections. Both servers are started three times, since two starts of
the same code differ by some percent, and within each pair they are loaded one after the other, in alternating order. A
ratio's interval is a bootstrap over the pairs of all starts; raw results go to benchmarks/results/serving.json,
serving-all.json, or one named after the features. CPU time is the server's, beside which Ray's own processes count for
the endpoint.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.cpu import Tree
from benchmarks.features import FEATURES, Called, watched
from benchmarks.features import endpoint as featured
from benchmarks.load import Figures, Load, image_request
from services.models import Stored

LOADS = (Load(1, 1), Load(32, 32), Load(128, 128), Load(1, 32))
TARGET_THROUGHPUT, TARGET_P50 = 0.9, 1.2
STARTS = 3
SIDE = 28
Side = TypeVar("Side")
"""What stands for a server to those who measure it."""
Pair = tuple[Callable[[Side, Load], Figures], tuple[Side, Side]]
"""What measures a server under a load, and two of them."""
Started = contextlib.AbstractContextManager[Pair[Side]]


def main() -> None:
    """Measures every load and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs per load, of all starts together")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    parser.add_argument("--starts", type=int, default=STARTS, help="how often both servers are started anew")
    parser.add_argument(
        "--loads",
        type=Load.parse,
        nargs="+",
        default=LOADS,
        help="as 32 for so many connections, or 1x32 for streams on one",
    )
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=(), help="turn these of the endpoint on")
    parser.add_argument("--all", action="store_true", help="turn every feature of the endpoint on, but for TLS")
    parser.add_argument("--same-path", action="store_true", help="have the floor choose its model's path as well")
    arguments = parser.parse_args()
    features = FEATURES if arguments.all else arguments.features
    floor = ("exact",) if arguments.same_path and "paths" in features else ()
    start = partial(_started, features=features, seconds=arguments.seconds, floor=floor)
    results = started_anew(arguments.starts, arguments.loads, arguments.pairs, start)
    report(results, ("floor", "endpoint"))
    print(f"\ntargets: throughput ratio at least {TARGET_THROUGHPUT}, p50 ratio at 1 connection at most {TARGET_P50}")
    named = ("all",) if arguments.all else tuple(features)
    keep(results, "-".join(("serving", *named, *(("same-path",) if floor else ()))))


@contextlib.contextmanager
def _started(scratch: Path, features: Collection[str], seconds: float, floor: Sequence[str]) -> Iterator[Pair[Called]]:
    """Starts floor and endpoint, as started_anew() wants it; `floor` goes to the floor."""
    stored = convnet(scratch / "model")
    request = scratch / "request"
    request.write_bytes(image_request(SIDE))
    with _floor(stored.folder, *floor) as (address, pid), _endpoint(stored, scratch, features) as endpoint:
        bare = Called(address, endpoint.metadata)
        trees = {bare: Tree(pid), endpoint: Tree(os.getpid(), without=(pid,))}

        def measure(called: Called, load: Load) -> Figures:
            return trees[called].measured(lambda: called.load(request, load, seconds))

        for called in trees:
            measure(called, LOADS[1])
        yield measure, (bare, endpoint)


def started_anew(
    starts: int, loads: Collection[Load], count: int, start: Callable[[Path], Started[Side]]
) -> list[tuple[Load, list[tuple[Figures, Figures]]]]:
    """Measures two servers, started anew so many times, with so many pairs a load in all.

    start: starts both below a folder of their own, warm; yields what measures one of them under a load, and the two.
    """
    results: list[tuple[Load, list[tuple[Figures, Figures]]]] = [(load, []) for load in loads]
    for number in range(starts):
        with tempfile.TemporaryDirectory() as scratch, start(Path(scratch)) as (measure, sides):
            for load, found in results:
                found += pairs(load, sides, measure, count // starts + (number < count % starts))
    return results


def convnet(folder: Path) -> Stored:
    """Saves the classifier's default network with random weights, for 28x28 grey images."""
    import torch

    from pipelines import artifact
    from pipelines.classifier import networks
    from pipelines.classifier.model import Description, Model

    torch.manual_seed(0)
    labels = [str(digit) for digit in range(10)]
    examples = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8)
    network = networks.build("convnet", (1, SIDE, SIDE), len(labels), 0.0)
    model = Model(Description("convnet", labels, [1, SIDE, SIDE], 0.0, labels[:2]), network, examples)
    return Stored("classifier", str(folder), 1, "benchmark", artifact.write(folder, "classifier", model.save))


@contextlib.contextmanager
def _floor(*words: str) -> Iterator[tuple[str, int]]:
    """Runs the floor in a process of its own; yields its address and its process id."""
    command = [sys.executable, "-m", "benchmarks.floor", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}", process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def _endpoint(stored: Stored, scratch: Path, features: Collection[str]) -> Iterator[Called]:
    """Runs the endpoint as a user gets it, with some features on; without `paths`, the model as the floor runs it."""
    model = watched(stored) if "drift" in features else stored
    with featured(model, scratch, features) as called:
        yield called


def pairs(
    load: Load, sides: tuple[Side, Side], measure: Callable[[Side, Load], Figures], count: int
) -> list[tuple[Figures, Figures]]:
    """Measures two servers in turn, in alternating order."""
    found = []
    for number in range(count):
        measured = {side: measure(side, load) for side in (sides if number % 2 == 0 else sides[::-1])}
        found.append((measured[sides[0]], measured[sides[1]]))
        print(f"{load}: {found[-1][0].per_s:.0f}/s, {found[-1][1].per_s:.0f}/s", file=sys.stderr)
    return found


def report(results: list[tuple[Load, list[tuple[Figures, Figures]]]], names: tuple[str, str]) -> None:
    """Prints a row for each load, of two servers with these names; ratios are the second's to the first's."""
    one, two = names
    print(
        f"| load | {one} /s | {two} /s | ratio (95 %) | {one} p50 ms | {two} p50 ms | ratio | {one} p99 ms "
        f"| {two} p99 ms | {one} CPU us a call | {two} CPU us a call | failed |\n" + "|---" * 12 + "|"
    )
    for load, found in results:
        ratios = [second.per_s / first.per_s for first, second in found]
        low, high = interval(ratios)
        p50 = statistics.median(second.p50_ms / first.p50_ms for first, second in found)
        failed = sum(figures.failed for pair in found for figures in pair)
        print(
            f"| {load} | {medians('per_s', found, 0)} | {statistics.mean(ratios):.3f} ({low:.3f} to {high:.3f}) "
            f"| {medians('p50_ms', found, 2)} | {p50:.2f} | {medians('p99_ms', found, 2)} "
            f"| {medians('cpu_us', found, 0)} | {failed} |"
        )


def keep(results: list[tuple[Load, list[tuple[Figures, Figures]]]], name: str) -> None:
    """Writes the raw figures to benchmarks/results/NAME.json."""
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    raw = {str(load): [[asdict(figures) for figures in pair] for pair in found] for load, found in results}
    (kept / f"{name}.json").write_text(json.dumps(raw, indent=2))


def medians(what: str, found: list[tuple[Figures, Figures]], digits: int) -> str:
    """Two columns: the first server's median, and the second's."""
    return " | ".join(f"{statistics.median(getattr(pair[side], what) for pair in found):.{digits}f}" for side in (0, 1))


def interval(ratios: list[float]) -> tuple[float, float]:
    """Bootstraps the mean of the ratios; 95 % of the resamples lie between the two."""
    generator = random.Random(0)
    means = sorted(statistics.mean(generator.choices(ratios, k=len(ratios))) for _ in range(2000))
    return means[50], means[-51]


if __name__ == "__main__":
    main()
