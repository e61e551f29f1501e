"""Room for workers on the cluster, and whether its machines see the run folders."""

from pathlib import Path

import pytest

from pipelines import capacity, launch
from pipelines.settings import Launch


class Told(Exception):
    """Ends what would wait for ever, with what was said."""


def tell(sentence: str) -> None:
    raise Told(sentence)


def test_more_workers_than_there_is_room_for_are_waited_for_where_asked_saying_for_what(ray_cluster: None) -> None:
    with pytest.raises(Told, match=r"waiting for 98 CPUs: the cluster has \d+ CPUs, \d+ of them free"):
        launch.start_ray(Launch(workers="98:99", wait=True), say=tell)
    with pytest.raises(ValueError, match=r"--workers is 98:99, and the cluster has \d+ CPUs; .*, or --wait for more"):
        launch.start_ray(Launch(workers="98:99"), say=tell)


def test_a_cluster_that_stays_as_it_is_is_not_waited_for(ray_cluster: None) -> None:
    with pytest.raises(ValueError, match=r"--workers is 99 --gpu, and the cluster has 0 GPUs; .* leave out --gpu$"):
        capacity.find(Launch(workers=99, gpu=True, wait=True), False, tell)


def test_a_run_folder_that_another_machine_does_not_see_is_refused_and_named(ray_cluster: None, tmp_path: Path) -> None:
    nodes = capacity.machines()
    capacity.check_seen([tmp_path], nodes)
    with pytest.raises(ValueError, match=r"the machine at [\d.]+ does not see the run folder '.*nowhere', .* share"):
        capacity.check_seen([tmp_path, tmp_path / "nowhere"], nodes)
