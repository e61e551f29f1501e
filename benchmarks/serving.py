"""The Serve endpoint against bare grpc.aio with the same batching, contract, model and threads (the floor).

    python -m benchmarks.serving --pairs 5

The model is the classifier's ConvNet on 28x28 raw images; the client is ghz, compiled, on the same cores; N clients
are N connections. Both servers run for the whole time, and within each pair they are loaded one after the other, in
alternating order. A ratio's interval is a bootstrap over the pairs; raw results go to benchmarks/results/serving.json.
CPU time is the server's, beside which Ray's own processes count for the endpoint.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.cpu import Tree
from benchmarks.load import Figures, Load, image_request, run
from eagerly.commands.serve import Serve, serving
from services.models import Stored

LOADS = (Load(1, 1), Load(32, 32), Load(128, 128), Load(1, 32))
TARGET_THROUGHPUT, TARGET_P50 = 0.9, 1.2
SIDE = 28


def main() -> None:
    """Measures every load and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs per load")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        stored = convnet(Path(scratch) / "model")
        request = Path(scratch) / "request"
        request.write_bytes(image_request(SIDE))
        floor, pid = stack.enter_context(_floor(Path(stored.folder)))
        endpoint = stack.enter_context(serving(Serve(port=0, metrics_port=0, threads=1), [stored])).address
        trees = {floor: Tree(pid), endpoint: Tree(os.getpid(), without=(pid,))}

        def measure(address: str, load: Load) -> Figures:
            return trees[address].measured(lambda: run(address, request, load, arguments.seconds))

        for address in trees:
            measure(address, LOADS[1])
        results = [_pairs(load, floor, endpoint, measure, arguments.pairs) for load in LOADS]
    _report(results)


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
def _floor(folder: Path) -> Iterator[tuple[str, int]]:
    """Runs the floor in a process of its own; yields its address and its process id."""
    command = [sys.executable, "-m", "benchmarks.floor", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}", process.pid
        process.kill()


def _pairs(
    load: Load, floor: str, endpoint: str, measure: Callable[[str, Load], Figures], count: int
) -> tuple[Load, list[tuple[Figures, Figures]]]:
    """Measures floor and endpoint in turn; each pair is (floor, endpoint)."""
    pairs = []
    for number in range(count):
        order = (floor, endpoint) if number % 2 == 0 else (endpoint, floor)
        measured = {address: measure(address, load) for address in order}
        pairs.append((measured[floor], measured[endpoint]))
        print(f"{load}: floor {pairs[-1][0].per_s:.0f}/s, endpoint {pairs[-1][1].per_s:.0f}/s", file=sys.stderr)
    return load, pairs


def _report(results: list[tuple[Load, list[tuple[Figures, Figures]]]]) -> None:
    """Prints a row for each load and keeps the raw figures."""
    print(
        "| load | floor /s | endpoint /s | ratio (95 %) | floor p50 ms | endpoint p50 ms | ratio "
        "| floor CPU us a call | endpoint CPU us a call | failed |\n" + "|---" * 10 + "|"
    )
    for load, pairs in results:
        ratios = [endpoint.per_s / floor.per_s for floor, endpoint in pairs]
        low, high = interval(ratios)
        floor_s, endpoint_s = (statistics.median(pair[side].per_s for pair in pairs) for side in (0, 1))
        floor_ms, endpoint_ms = (statistics.median(pair[side].p50_ms for pair in pairs) for side in (0, 1))
        p50 = statistics.median(endpoint.p50_ms / floor.p50_ms for floor, endpoint in pairs)
        floor_us, endpoint_us = (statistics.median(pair[side].cpu_us for pair in pairs) for side in (0, 1))
        failed = sum(figures.failed for pair in pairs for figures in pair)
        print(
            f"| {load} | {floor_s:.0f} | {endpoint_s:.0f} | {statistics.mean(ratios):.3f} ({low:.3f} to {high:.3f}) "
            f"| {floor_ms:.2f} | {endpoint_ms:.2f} | {p50:.2f} "
            f"| {floor_us:.0f} | {endpoint_us:.0f} | {failed} |"
        )
    print(f"\ntargets: throughput ratio at least {TARGET_THROUGHPUT}, p50 ratio at 1 connection at most {TARGET_P50}")
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    raw = {str(load): [[asdict(figures) for figures in pair] for pair in pairs] for load, pairs in results}
    (kept / "serving.json").write_text(json.dumps(raw, indent=2))


def interval(ratios: list[float]) -> tuple[float, float]:
    """Bootstraps the mean of the ratios; 95 % of the resamples lie between the two."""
    generator = random.Random(0)
    means = sorted(statistics.mean(generator.choices(ratios, k=len(ratios))) for _ in range(2000))
    return means[50], means[-51]


if __name__ == "__main__":
    main()
