"""Metrics, the access log and tracing of 1 % of the calls on, against all of them off.

    python -m benchmarks.observability --pairs 9

Two plain processes without Ray serve the classifier's ConvNet on 28x28 raw images, one as it is with access log and
traces asked for, the other with metrics that count nothing; ghz, a compiled client, calls from the same cores, and so
does the collector that the spans go to. Both are started three times, and within each pair they are loaded one after
the other, in alternating order. CPU time is the server's, all its threads included. `--only` leaves just one of the
three on, to see what each costs. Raw results go to benchmarks/results/observability.json.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.collector import collecting
from benchmarks.cpu import Tree
from benchmarks.load import Figures, Load, image_request, run
from benchmarks.serving import LOADS, SIDE, STARTS, Pair, convnet, interval, keep, medians, started_anew

Side = tuple[str, Tree]
"""A server's address, and its processes."""
PARTS = ("metrics", "access_log", "traces")
TARGET = 0.92
"""Throughput with all on, as a share of that with all off."""


def main() -> None:
    """Measures every load and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs per load, of all starts together")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    parser.add_argument("--starts", type=int, default=STARTS, help="how often both servers are started anew")
    parser.add_argument("--only", choices=PARTS, help="the one that is on, instead of all three")
    arguments = parser.parse_args()
    on = (arguments.only,) if arguments.only else PARTS
    start = partial(_started, on=on, seconds=arguments.seconds)
    results = started_anew(arguments.starts, LOADS, arguments.pairs, start)
    _report(results)
    if not arguments.only:
        keep(results, "observability")


@contextlib.contextmanager
def _started(folder: Path, on: tuple[str, ...], seconds: float) -> Iterator[Pair[Side]]:
    """Starts a server with nothing on and one with these parts, as started_anew() wants it."""
    convnet(folder / "model")
    request = folder / "request"
    request.write_bytes(image_request(SIDE))
    with (
        collecting() as collector,
        _server(folder, (), collector) as without,
        _server(folder, on, collector) as observing,
    ):

        def measure(side: Side, load: Load) -> Figures:
            return side[1].measured(lambda: run(side[0], request, load, seconds))

        for side in (without, observing):
            measure(side, LOADS[1])
        yield measure, (without, observing)


def _report(results: list[tuple[Load, list[Any]]]) -> None:
    """Prints a row for each load."""
    print(
        "| load | off /s | on /s | throughput on / off (95 %) "
        "| off CPU us a call | on CPU us a call | more (95 %) | failed |"
    )
    print("|---" * 8 + "|")
    for load, found in results:
        ratios = [on.per_s / off.per_s for off, on in found]
        more = [on.cpu_us - off.cpu_us for off, on in found]
        failed = sum(figures.failed for pair in found for figures in pair)
        (low, high), (least, most) = interval(ratios), interval(more)
        print(
            f"| {load} | {medians('per_s', found, 0)} | {statistics.mean(ratios):.3f} ({low:.3f} to {high:.3f}) "
            f"| {medians('cpu_us', found, 0)} | {statistics.mean(more):.1f} ({least:.1f} to {most:.1f}) | {failed} |"
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
