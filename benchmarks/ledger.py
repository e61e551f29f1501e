"""Whether serving loses a call while replicas die, are replaced, scaled and swapped, and the registry goes away.

    python -m benchmarks.ledger --kills 20 --updates 5 --swaps 5 --outages 3 --scalings 3 --seed 0

Serves a classifier with `eagerly serve`'s own code on Ray and calls it from several processes with the service config
that is shipped, and from one without retries. Every call is in a book before it is sent and again when it has ended:
one without an outcome is lost. The order of events, their victims and the ways in which the registry is away come from
the seed. Raw results go to benchmarks/results/ledger.json; the exit code is 1 when a call with the shipped service
config failed, any call was lost, or a reply mixed versions.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.book import Verdict, judge, longest_gap_s, read
from benchmarks.callers import calling
from benchmarks.stage import Event, Stage, staged

PROCESSES = {"shipped": 2, "bare": 1}
"""Of callers, by kind."""
SIZES = (3, 1, 2)
"""Replicas after each scaling in turn; there are two at the beginning."""


@dataclass(frozen=True)
class Counts:
    """How many events of each kind there are."""

    kills: int = 20
    updates: int = 5
    swaps: int = 5
    outages: int = 3
    scalings: int = 3


@dataclass
class Report:
    """What a ledger found."""

    seed: int
    seconds: float
    verdicts: dict[str, Verdict]
    """By kind of caller."""
    events: list[Event]
    gaps_s: list[float]
    """For each event, the longest time without an answer to a caller with the shipped service config."""
    problems: list[str] = field(default_factory=list)
    """Why serving does lose something; empty when it does not."""


def plan(counts: Counts, seed: int) -> list[tuple[str, ...]]:
    """Draws the order of events; those that happen during an outage stand behind it.

    Updates are dealt out in turn to the times with two, three and one replicas, so that each size is updated.
    """
    draw = random.Random(seed)
    spells: list[list[tuple[str, ...]]] = [[] for _ in range(counts.scalings + 1)]
    killed = min(counts.kills, counts.outages)
    events = [("outage", "kill")] * killed + [("outage",)] * (counts.outages - killed)
    events += [("kill",)] * (counts.kills - killed) + [("swap",)] * counts.swaps
    for event in events:
        draw.choice(spells).append(event)
    for number in range(counts.updates):
        spells[number % len(spells)].append(("update",))
    for spell in spells:
        draw.shuffle(spell)
    drawn = spells[0]
    for number, spell in enumerate(spells[1:]):
        drawn += [("scale", str(SIZES[number % len(SIZES)])), *spell]
    return drawn


def run(counts: Counts, seed: int, folder: Path, processes: dict[str, int], show: Callable[[str], None]) -> Report:
    """Calls and lets things happen.

    folder: where registry, store and books lie; empty. processes: callers of each kind. show: is told of each event.
    """
    began = time.monotonic()
    with staged(folder) as (stage, digests), calling(stage.address, folder, processes) as books:
        problems = _play(stage, counts, seed, show)
    calls = read(books)
    by_kind = {kind: [call for call in calls if call.id.startswith(f"{kind}-")] for kind in processes}
    verdicts = {kind: judge(of_kind, digests) for kind, of_kind in by_kind.items()}
    gaps_s = [longest_gap_s(by_kind["shipped"], event.began, event.ended) for event in stage.events]
    return Report(seed, time.monotonic() - began, verdicts, stage.events, gaps_s, problems + losses(verdicts))


def _play(stage: Stage, counts: Counts, seed: int, show: Callable[[str], None]) -> list[str]:
    """Lets everything happen in turn; returns why it went no further, if so."""
    draw = random.Random(f"{seed}/events")
    for event in plan(counts, seed):
        time.sleep(draw.uniform(0.5, 2.0))
        try:
            _happen(stage, event, draw)
        except (ValueError, RuntimeError) as problem:
            return [f"{' '.join(event)}: {problem}"]
        took_s = stage.events[-1].ended - stage.events[-1].began
        show(f"{stage.events[-1].kind:<8} {stage.events[-1].detail:<24} {took_s:6.1f} s")
    time.sleep(1.0)
    return []


def _happen(stage: Stage, event: tuple[str, ...], draw: random.Random) -> None:
    match event:
        case ("scale", size):
            stage.scale(int(size))
        case ("outage", _):
            stage.outage(draw, partial(stage.kill, draw))
        case (name,):
            getattr(stage, name)(draw)


def losses(verdicts: dict[str, Verdict]) -> list[str]:
    """Says what was lost: calls that failed in spite of retries, have no outcome, or were answered by two models."""
    found = []
    for kind, verdict in verdicts.items():
        if kind == "shipped" and verdict.failed:
            found.append(f"{verdict.failed_count} calls failed in spite of retries: {verdict.failed}")
        if verdict.unanswered:
            found.append(f"{len(verdict.unanswered)} {kind} calls have no outcome, {verdict.unanswered[0]} for one")
        if verdict.mixed:
            found.append(f"{len(verdict.mixed)} {kind} replies mix versions: {verdict.mixed[0]}")
        if not verdict.answered:
            found.append(f"no {kind} call was answered")
    return found


def main() -> int:
    """Runs a ledger and prints what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in asdict(Counts()).items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    words = vars(parser.parse_args())
    seed = words.pop("seed")
    os.environ.pop("RAY_ADDRESS", None)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Counts(**words), seed, Path(folder), PROCESSES, partial(print, flush=True))
    _print(report)
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    (kept / "ledger.json").write_text(json.dumps(asdict(report), indent=2))
    return int(bool(report.problems))


def _print(report: Report) -> None:
    print("\n| event | times | seconds, median | longest | longest gap between answers, s |\n|---|---|---|---|---|")
    for kind in dict.fromkeys(event.kind for event in report.events):
        at = [number for number, event in enumerate(report.events) if event.kind == kind]
        took_s = [report.events[number].ended - report.events[number].began for number in at]
        gap_s = max(report.gaps_s[number] for number in at)
        print(f"| {kind} | {len(at)} | {statistics.median(took_s):.1f} | {max(took_s):.1f} | {gap_s:.2f} |")
    print("\n| callers | answered | failed | no outcome | mixed |\n|---|---|---|---|---|")
    for kind, verdict in report.verdicts.items():
        failed = f"{verdict.failed_count} {verdict.failed or ''}".strip()
        unanswered, mixed = len(verdict.unanswered), len(verdict.mixed)
        print(f"| {kind} | {verdict.answered} | {failed} | {unanswered} | {mixed} |")
    print(f"\n{len(report.events)} events, seed {report.seed}, {report.seconds:.0f} s")
    print(*(report.problems or ["nothing lost"]), sep="\n")
    shipped = report.verdicts["shipped"]
    print(*shipped.examples[:10], sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
