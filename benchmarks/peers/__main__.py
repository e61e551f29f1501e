"""Our endpoint against other model servers, each tuned for throughput as its own documentation advises.

    python -m benchmarks.peers --install
    python -m benchmarks.peers --peers mlserver,litserve --model encoder --pairs 9

One model with the same weights, code and number of threads; a compiled client on the same cores, ghz for gRPC and wrk,
which costs less, for HTTP; N clients are N connections, and 1x32 is one connection with 32 streams, which HTTP/1.1
lacks. A peer that must be told how to batch is started anew for each
load, with batches as large as there are clients (64 at most) and the best wait of those tried; ours, and BentoML, find
out themselves. Of the servers only the one that is loaded runs: the other is
stopped meanwhile, as some poll without a pause. Within each pair they are loaded one after the other, in alternating
order. A ratio's interval is a bootstrap over the pairs;
raw results go to benchmarks/results/peers.json.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median

from benchmarks.load import Figures, Load
from benchmarks.peers.servers import OURS, PEERS, Running, install, running
from benchmarks.peers.workloads import Workload, make
from benchmarks.serving import interval, medians

Pairs = list[tuple[Figures, Figures]]
"""(peer, ours)."""
KEPT = Path("benchmarks/results/peers.json")
HEAD = (
    "| model | peer | load | peer /s | ours /s | ratio (95 %) | peer p50 ms | ours p50 ms | ratio "
    "| peer p99 ms | ours p99 ms | peer CPU us a call | ours CPU us a call | failed |\n" + "|---" * 14 + "|"
)


def main() -> None:
    """Measures every model, peer and load, and prints a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make the peers' environments, and measure nothing")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, separated by commas")
    parser.add_argument("--model", default="convnet,encoder", help="which, separated by commas")
    parser.add_argument("--loads", default="1,8,32,128,1x32", help="clients or connections x streams, with commas")
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs per load")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    parser.add_argument("--workers", type=int, default=1, help="processes with a model, in every server")
    arguments = parser.parse_args()
    names = arguments.peers.split(",")
    for name in names:
        install(PEERS[name])
    if arguments.install:
        return
    print(HEAD)
    for model in arguments.model.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            workload = make(model, Path(scratch) / "model")
            for name in names:
                _compare(model, name, workload, arguments)


def _compare(model: str, name: str, workload: Workload, arguments: argparse.Namespace) -> None:
    """Measures one peer at every load."""
    workers: int = arguments.workers
    with running(OURS, workload, workers) as ours:
        for load in map(Load.parse, arguments.loads.split(",")):
            if load.streams > load.connections and PEERS[name].protocol.startswith("/"):
                continue
            with running(PEERS[name], workload, workers, load.streams) as peer:
                for each in (peer, ours):
                    each.load(load, min(2.0, arguments.seconds))
                pairs = [_pair(number, load, peer, ours, arguments.seconds) for number in range(arguments.pairs)]
            print(_row(model, name, load, pairs), flush=True)
            _keep(model if workers == 1 else f"{model}, {workers} workers", name, str(load), pairs)


def _pair(number: int, load: Load, peer: Running, ours: Running, seconds: float) -> tuple[Figures, Figures]:
    """Loads both, the peer first in even pairs."""
    measured = {}
    for each, other in ((peer, ours), (ours, peer)) if number % 2 == 0 else ((ours, peer), (peer, ours)):
        with other.tree.stopped():
            measured[each] = each.load(load, seconds)
    print(f"{load}: peer {measured[peer].per_s:.0f}/s, ours {measured[ours].per_s:.0f}/s", file=sys.stderr)
    return measured[peer], measured[ours]


def _row(model: str, name: str, load: Load, pairs: Pairs) -> str:
    ratios = [ours.per_s / peer.per_s for peer, ours in pairs]
    low, high = interval(ratios)
    p50 = median(ours.p50_ms / peer.p50_ms for peer, ours in pairs)
    failed = " and ".join(str(sum(pair[side].failed for pair in pairs)) for side in (0, 1))
    throughput = f"{medians('per_s', pairs, 0)} | {mean(ratios):.2f} ({low:.2f} to {high:.2f})"
    return (
        f"| {model} | {name} | {load} | {throughput} "
        f"| {medians('p50_ms', pairs, 2)} | {p50:.2f} | {medians('p99_ms', pairs, 2)} "
        f"| {medians('cpu_us', pairs, 0)} | {failed} |"
    )


def _keep(model: str, name: str, load: str, pairs: Pairs) -> None:
    """Writes the raw figures beside those of earlier runs with other peers, models or loads."""
    KEPT.parent.mkdir(exist_ok=True)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    raw = [{"peer": asdict(peer), "ours": asdict(ours)} for peer, ours in pairs]
    kept.setdefault(model, {}).setdefault(name, {})[load] = raw
    KEPT.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
