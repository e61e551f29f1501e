"""Two processes learn what one learns, each from its own share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import training
from training import PARITY, PLAIN, REGRESSION

from pipelines.examples import Data
from pipelines.place import Place


def test_two_processes_of_32_equal_one_of_64_for_200_losses(tmp_path: Path, pair: training.Pair) -> None:
    one = training.train(tmp_path / "one", **PLAIN, epochs=9)
    both = pair.run(training.train_ranked, tmp_path / "two", PLAIN | {"epochs": 9})
    assert len(one.losses) > 200
    assert both[0].losses[:200] == pytest.approx(one.losses[:200], rel=0, abs=1e-4)


def test_only_rank_0_speaks_and_all_ranks_know_the_same_metrics(tmp_path: Path, pair: training.Pair) -> None:
    one = training.train(tmp_path / "one", **PLAIN, epochs=1)
    both = pair.run(training.train_ranked, tmp_path / "two", PLAIN | {"epochs": 1})
    assert both[1].events == []
    assert both[0].metrics == both[1].metrics
    assert both[0].metrics == pytest.approx(one.metrics, abs=1e-5)


def test_an_uneven_batch_is_weighted_by_share(tmp_path: Path, pair: training.Pair) -> None:
    one = training.train(tmp_path / "one", REGRESSION, epochs=50)
    both = pair.run(training.train_ranked, tmp_path / "two", {"word": REGRESSION, "epochs": 50})
    assert both[0].losses == pytest.approx(one.losses, rel=1e-5)


def test_accumulating_on_two_processes_gives_the_same_trajectory(tmp_path: Path, pair: training.Pair) -> None:
    one = training.train(tmp_path / "one", **PLAIN, epochs=1)
    both = pair.run(training.train_ranked, tmp_path / "two", PLAIN | {"epochs": 1, "accumulate": 3})
    assert both[0].losses == pytest.approx(one.losses, rel=0, abs=1e-4)


def test_each_rank_reads_its_own_share_and_together_all_once(tmp_path: Path, pair: training.Pair) -> None:
    first, second = pair.run(training.reads_ranked, tmp_path, PLAIN | {"epochs": 1})
    for name, count in (("train", 1433), ("test", 183)):
        assert sorted(first[name] + second[name]) == [*range(count)]
        assert abs(len(first[name]) - len(second[name])) <= 1
    shown = [0, 180]  # what every rank's new model keeps as its two examples
    even, odd = [*range(0, 181, 2)], [*range(1, 181, 2)]  # read to measure an epoch, and to calibrate
    assert first["valid"] == [*shown, *even, *even, *range(181)]  # the first rank writes the reference of drift
    assert second["valid"] == [*shown, *odd, *odd]


def test_fewer_test_examples_than_ranks_count_once(tmp_path: Path, pair: training.Pair) -> None:
    one, other = pair.run(train_with_one_test_point, tmp_path)
    assert one == other
    assert one == pytest.approx(train_with_one_test_point(0, tmp_path / "alone", 1), rel=1e-5)


def test_a_graph_that_depends_on_data_learns_on_two_processes(tmp_path: Path, pair: training.Pair) -> None:
    both = pair.run(training.train_ranked, tmp_path, {"word": PARITY})
    assert both[0].metrics["accuracy"] == 1.0


def test_the_default_recipe_keeps_buffers_alike(tmp_path: Path, pair: training.Pair) -> None:
    both = pair.run(training.train_ranked, tmp_path, {"epochs": 4, "batch_size": 256})
    assert both[0].metrics["accuracy"] > 0.9
    assert any("running_mean" in name for name in both[0].weights)


def train_with_one_test_point(rank: int, folder: Path, world: int = 2) -> dict[str, float]:
    def wrap(data: Data) -> Data:
        points: Any = data.test
        return replace(data, test=type(points)(points.x[:1], points.y[:1]))

    return training.train(folder, REGRESSION, Place(rank, world), wrap=wrap, epochs=1).metrics
