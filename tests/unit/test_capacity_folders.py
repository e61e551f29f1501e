"""Which machines of a cluster must see a run's folder, and what its workers read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from training import PARITY

from pipelines import capacity, tasks
from pipelines.settings import Launch

HERE, THERE = "10.0.0.1", "10.0.0.2"


class AsIfThere:
    """A function of Ray's that another machine runs, which sees the files that this one does but those named `own`."""

    def __init__(self, function: Callable[[list[str]], list[str]]) -> None:
        self._function = function

    def options(self, scheduling_strategy: Any) -> "AsIfThere":
        return self

    def remote(self, words: list[str]) -> list[str]:
        return [*self._function(words), *(word for word in words if word.endswith("own"))]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The nodes of a cluster, this machine's first."""
    found = [node(HERE, {"CPU": 4.0, "GPU": 1.0})]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: HERE)
    monkeypatch.setattr(ray, "remote", lambda num_cpus: AsIfThere)
    monkeypatch.setattr(ray, "get", lambda answers: answers)
    return found


def node(address: str, resources: dict[str, float]) -> dict[str, Any]:
    return {"Alive": True, "NodeID": "ab" * 28, "NodeManagerAddress": address, "Resources": resources}


@pytest.mark.parametrize(
    ("resources", "gpu"), [({}, False), ({"CPU": 0.0}, False), ({"GPU": 1.0}, False), ({"CPU": 8.0}, True)]
)
def test_a_machine_that_no_worker_can_run_on_need_not_see_the_run_folder(
    resources: dict[str, float], gpu: bool, nodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    nodes.append(node(THERE, {"memory": 4e9, **resources}))
    capacity.check_folders([tmp_path / "nowhere"], Launch(gpu=gpu))


@pytest.mark.parametrize(("resources", "gpu"), [({"CPU": 1.0}, False), ({"GPU": 1.0}, True)])
def test_a_machine_that_a_worker_may_run_on_must_see_the_run_folder(
    resources: dict[str, float], gpu: bool, nodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    nodes.append(node(THERE, resources))
    capacity.check_folders([tmp_path], Launch(gpu=gpu))
    with pytest.raises(ValueError, match=rf"the machine at {THERE} does not see the run folder '.*nowhere'"):
        capacity.check_folders([tmp_path / "nowhere"], Launch(gpu=gpu))


def check(task: str, place: Path = Path(), **settings: str) -> None:
    found = tasks.find(task)
    given = {name: str(place / value) if "://" not in value else value for name, value in settings.items()}
    capacity.check_inputs(found, found.config.Config(**given), Launch())


@pytest.mark.parametrize(
    ("task", "settings", "flag"),
    [
        ("sentiment", {"data": "reviews_own"}, "--data"),
        ("sentiment", {"encoder": "folder_own"}, "--encoder"),
        ("sentiment", {"data": "folder_own/*.csv"}, "--data"),
        ("classifier", {"pretrained": "reviews_own"}, "--pretrained"),
        ("recommender", {"ratings": "reviews_own", "items": "shared"}, "--ratings"),
    ],
)
def test_a_machine_that_a_worker_may_run_on_must_see_what_settings_name(
    task: str, settings: dict[str, str], flag: str, nodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "folder_own").mkdir()
    for name in ("reviews_own", "shared"):
        (tmp_path / name).touch()
    check(task, tmp_path, **settings)  # on this machine alone
    nodes.append(node(THERE, {"CPU": 1.0}))
    with pytest.raises(ValueError, match=rf"the machine at {THERE} does not see {flag} '.*own', .* submit` and --sto"):
        check(task, tmp_path, **settings)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("sentiment", {}),
        ("sentiment", {"data": "shared"}),
        ("sentiment", {"data": "s3://bucket/reviews_own"}),
        ("sentiment", {"data": "nowhere_own"}),
        ("classifier", {"data_dir": "folder_own"}),
    ],
)
def test_what_is_shared_or_no_file_here_or_is_filled_where_it_is_missing_is_not_looked_for(
    task: str, settings: dict[str, str], nodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "folder_own").mkdir()
    (tmp_path / "shared").touch()
    nodes.append(node(THERE, {"CPU": 1.0}))
    check(task, tmp_path, **settings)


def test_names_of_hubs_and_of_weights_are_not_looked_for(nodes: list[dict[str, Any]]) -> None:
    nodes.append(node(THERE, {"CPU": 1.0}))
    weights = {"pretrained": "default", "arch": "resnet18"}
    for task, settings in (("sentiment", {"encoder": "org/its_own"}), ("classifier", weights)):
        found = tasks.find(task)
        capacity.check_inputs(found, found.config.Config(**settings), Launch())


def test_a_machine_that_a_worker_may_run_on_must_see_the_folder_of_a_task_of_ones_own(
    nodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    task = tmp_path / "my_own"
    shutil.copytree(PARITY, task)
    nodes.append(node(THERE, {"CPU": 1.0}))
    check(PARITY)
    with pytest.raises(ValueError, match=rf"the machine at {THERE} does not see the task's folder '{task}'"):
        check(str(task))
