"""A real MLflow server is killed in mid-run, and the recorder with it: one run, and every point once."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import tracker_outage


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
def test_a_server_that_was_away_has_one_run_with_every_point_once(tmp_path: Path) -> None:
    outcome = tracker_outage.play(tmp_path, outage_s=3.0, around_s=4.0)
    assert (outcome.run_count, outcome.missing, outcome.doubled) == (1, 0, 0)
    assert outcome.steps_away > 0 and outcome.points > outcome.steps_away


def test_a_point_that_is_missing_or_doubled_is_counted() -> None:
    kept = Counter([("loss", 0), ("loss", 1), ("loss", 2)])
    assert tracker_outage.compare(kept, Counter([("loss", 0), ("loss", 0), ("loss", 2), ("loss", 3)])) == (1, 2)
    assert tracker_outage.compare(kept, kept) == (0, 0)
