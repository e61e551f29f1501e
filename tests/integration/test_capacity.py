"""Room for workers on the cluster, and whether its machines see the run folders."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import capacity, launch, turns
from pipelines.settings import Launch


class Told(Exception):
    """Ends what would wait for ever, with what was said."""


def tell(sentence: str) -> None:
    raise Told(sentence)


class Joining:
    """A machine that joins the cluster as soon as a run says that it waits."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.told: list[str] = []
        self.holder: subprocess.Popen[bytes] | None = None

    def join(self, sentence: str) -> None:
        import ray

        self.told.append(sentence)
        if sentence and self.holder is None:
            where = [f"--address={ray.get_runtime_context().gcs_address}"]
            where += [f"--node-ip-address={ray.util.get_node_ip_address()}", f"--num-cpus={self.cpus}", "--block"]
            words = [sys.executable, "-m", "ray.scripts.scripts", "start", *where]
            self.holder = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def leave(self) -> None:
        if self.holder is not None:
            self.holder.terminate()
            self.holder.wait(30)


def test_more_workers_than_there_is_room_for_are_waited_for_where_asked_saying_for_what(ray_cluster: None) -> None:
    with pytest.raises(Told, match=r"waiting for 98 CPUs: the cluster has \d+ CPUs, \d+ of them free"):
        launch.start_ray(Launch(workers="98:99", wait=True), say=tell)
    with pytest.raises(Told, match=r"waiting for 1 GPU: the cluster has 0 GPUs, 0 of them free"):
        launch.start_ray(Launch(workers=1, gpu=True, wait=True), say=tell)
    with pytest.raises(ValueError, match=r"--workers is 98:99, and the cluster has \d+ CPUs; .*, or --wait for more"):
        launch.start_ray(Launch(workers="98:99"), say=tell)


def test_a_submitted_job_waits_in_its_turn_for_more_workers_than_there_is_room_for_saying_for_what(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("EAGERLY_JOB", "large")
    monkeypatch.setenv("EAGERLY_JOB_PRIORITY", "0")
    many = Launch(workers=98, wait=True)
    launch.start_ray(many, say=tell)
    held = pytest.raises(Told, match=r"waiting for 98 CPUs: the cluster has \d+ CPUs, \d+ of them free")
    with held, turns.turn(many, say=tell):
        raise AssertionError("it went on without room")
    assert ray.get(turns.actor().order.remote()) == []


def test_a_run_that_waits_for_room_goes_on_once_a_machine_that_has_it_joins(ray_cluster: None) -> None:
    import ray

    before = int(ray.cluster_resources()["CPU"])
    machine = Joining(before + 1)
    try:
        launch.start_ray(Launch(workers=before + 1, wait=True), say=machine.join)
        assert ray.available_resources()["CPU"] >= before + 1
        assert machine.told[0].startswith(f"waiting for {before + 1} CPUs: the cluster has {before} CPUs, ")
        assert machine.told[-1] == "" and "" not in machine.told[:-1]
    finally:
        machine.leave()
    deadline = time.monotonic() + 60
    while ray.cluster_resources()["CPU"] > before:
        assert time.monotonic() < deadline, "the cluster still counts the machine that left"
        time.sleep(0.2)


def test_a_cluster_that_stays_as_it_is_is_not_waited_for(ray_cluster: None) -> None:
    with pytest.raises(ValueError, match=r"--workers is 99 --gpu, and the cluster has 0 GPUs; .* leave out --gpu$"):
        capacity.find(Launch(workers=99, gpu=True, wait=True), False, tell)


def test_a_run_folder_that_another_machine_does_not_see_is_refused_and_named(ray_cluster: None, tmp_path: Path) -> None:
    nodes = capacity.machines()
    capacity.check_seen([tmp_path], nodes)
    with pytest.raises(ValueError, match=r"the machine at [\d.]+ does not see the run folder '.*nowhere', .* share"):
        capacity.check_seen([tmp_path, tmp_path / "nowhere"], nodes)
