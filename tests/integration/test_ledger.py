"""Serving loses no call while a replica dies, all are replaced, scaled and swapped, and the registry goes away."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import ledger

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning"),  # ray.serve's own
]


def test_no_call_is_lost_whatever_happens(ray_cluster: None, tmp_path: Path):
    counts = ledger.Counts(kills=1, updates=1, swaps=1, outages=1, scalings=1)
    report = ledger.run(counts, 0, tmp_path, {"shipped": 1, "bare": 1}, print)
    assert report.problems == [], report.verdicts
    assert Counter(event.kind for event in report.events) == dict.fromkeys(
        ("kill", "update", "swap", "outage", "scaling"), 1
    )
    assert min(verdict.answered for verdict in report.verdicts.values()) > 500
