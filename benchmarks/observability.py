"""Metrics, the access log and tracing of 1 % of the calls on, against all of them off.

    python -m benchmarks.observability --pairs 9

Two plain processes without Ray serve the classifier's ConvNet on 28x28 raw images, one as it is with access log and
traces asked for, the other with metrics that count nothing; ghz, a compiled client, calls from the same cores, and so
does the collector that the spans go to. Both run for the whole time, and within each pair they are loaded one after
the other, in alternating order. CPU time is the server's, all its threads included. `--only` leaves just one of the
three on, to see what each costs. Raw results go to benchmarks/results/observability.json.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.collector import collecting
from benchmarks.cpu import Tree
from benchmarks.load import Figures, Load, image_request, run
from benchmarks.serving import SIDE, convnet, interval

LOADS = (Load(1, 1), Load(32, 32), Load(128, 128))
PARTS = ("metrics", "access_log", "traces")
TARGET = 0.92
"""Throughput with all on, as a share of that with all off."""


def main() -> None:
    """Measures every load and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs per load")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    parser.add_argument("--only", choices=PARTS, help="the one that is on, instead of all three")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        convnet(folder / "model")
        request = folder / "request"
        request.write_bytes(image_request(SIDE))
        collector = stack.enter_context(collecting())
        sides = [
            stack.enter_context(_server(folder, parts, collector))
            for parts in ((), (arguments.only,) if arguments.only else PARTS)
        ]

        def measure(side: tuple[str, Tree], load: Load) -> Figures:
            return side[1].measured(lambda: run(side[0], request, load, arguments.seconds))

        for side in sides:
            measure(side, LOADS[1])
        results = []
        for load in LOADS:
            pairs = []
            for number in range(arguments.pairs):
                order = sides if number % 2 == 0 else sides[::-1]
                measured = {side[0]: measure(side, load) for side in order}
                pairs.append(tuple(measured[side[0]] for side in sides))
                print(f"{load}: off {pairs[-1][0].per_s:.0f}/s, on {pairs[-1][1].per_s:.0f}/s", file=sys.stderr)
            results.append((load, pairs))
    _report(results)
    if not arguments.only:
        raw = {str(load): [[asdict(figures) for figures in pair] for pair in pairs] for load, pairs in results}
        Path("benchmarks/results/observability.json").write_text(json.dumps(raw, indent=2))


def _report(results: list[tuple[Load, list[Any]]]) -> None:
    """Prints a row for each load."""
    print(
        "| load | off /s | on /s | throughput on / off (95 %) "
        "| off CPU us a call | on CPU us a call | more (95 %) | failed |"
    )
    print("|---" * 8 + "|")
    for load, pairs in results:
        ratios = [on.per_s / off.per_s for off, on in pairs]
        more = [on.cpu_us - off.cpu_us for off, on in pairs]
        off_s, on_s = (statistics.median(pair[side].per_s for pair in pairs) for side in (0, 1))
        off_us, on_us = (statistics.median(pair[side].cpu_us for pair in pairs) for side in (0, 1))
        failed = sum(figures.failed for pair in pairs for figures in pair)
        (low, high), (least, most) = interval(ratios), interval(more)
        print(
            f"| {load} | {off_s:.0f} | {on_s:.0f} | {statistics.mean(ratios):.3f} ({low:.3f} to {high:.3f}) "
            f"| {off_us:.0f} | {on_us:.0f} | {statistics.mean(more):.1f} ({least:.1f} to {most:.1f}) | {failed} |"
        )
    print(f"\ntarget: throughput at least {TARGET} of that with all off")


@contextlib.contextmanager
def _server(folder: Path, parts: tuple[str, ...], collector: str) -> Iterator[tuple[str, Tree]]:
    """Runs a server in a process of its own; yields its address and what counts its CPU time."""
    command = [sys.executable, "-m", "benchmarks.observability_server", str(folder), collector, *parts]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{process.stdout.readline().strip()}", Tree(process.pid)
        finally:
            process.kill()


if __name__ == "__main__":
    main()
