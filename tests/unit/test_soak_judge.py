"""The soak's judge reports what leaks, and nothing else."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.attacks import Held
from benchmarks.soak import leaks, rotated, sampled

LEAK = """
import time
kept = []
print("ready", flush=True)
while True:
    kept.append(b"x" * 200_000)
    time.sleep(0.005)
"""
FILES = """
import time
kept = []
print("ready", flush=True)
while True:
    kept.append(open("/dev/null"))
    time.sleep(0.02)
"""
IDLE = "import time; print('ready', flush=True); time.sleep(60)"


def samples(per_sample_mb: float = 0.0, descriptors: float = 0.0, threads: float = 0.0) -> list[Held]:
    """A minute of a server that grows like this, with the noise of one."""
    draw = random.Random(0)
    return [
        Held(
            700 + at * per_sample_mb + draw.choice((0, 0, 0, 60)) + draw.uniform(-3, 3),
            round(30 + at * descriptors) + draw.choice((0, 1)),
            round(17 + at * threads),
        )
        for at in range(60)
    ]


def test_noise_and_bursts_are_no_leak():
    assert leaks(samples(), 0.02) == []


@pytest.mark.parametrize(
    ("growing", "said"),
    [
        (samples(per_sample_mb=0.5), "memory grew from"),
        (samples(descriptors=0.2), "descriptors grew from"),
        (samples(threads=0.2), "threads grew from"),
    ],
)
def test_what_grows_bit_by_bit_is_a_leak(growing: list[Held], said: str):
    (problem,) = leaks(growing, 0.02)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("program", "grown"), [(LEAK, ["memory"]), (FILES, ["descriptors"]), (IDLE, [])], ids=["memory", "files", "idle"]
)
def test_a_process_that_leaks_is_found_out(program: str, grown: list[str]):
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = leaks(sampled([process.pid], 2.0, every_s=0.05), 0.05)
        process.kill()
    assert [problem.split()[0] for problem in found] == grown


def test_a_log_that_has_grown_large_is_moved_aside_and_a_small_one_stays(tmp_path: Path):
    large, small = tmp_path / "large.jsonl", tmp_path / "small.jsonl"
    large.write_text("x" * 101)
    small.write_text("x" * 100)
    with rotated(small, 100, every_s=0.01), rotated(large, 100, every_s=0.01):
        ends = time.monotonic() + 30
        while large.exists() and time.monotonic() < ends:
            time.sleep(0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.1", "small.jsonl"]
