"""A search that cannot succeed says so: room and folders before its first trial, the first failure when all fail."""

import shutil
from pathlib import Path

import pytest
from trained import ROOT

from pipelines import trials, tuning
from pipelines.settings import Launch
from pipelines.trials import Tuning

REGRESSION = ROOT / "examples" / "linear_regression"


class Told(Exception):
    """Ends what would wait for ever, with what was said."""


def tell(sentence: str) -> None:
    raise Told(sentence)


def create(folder: Path, word: str = str(REGRESSION), **launch: object) -> Tuning:
    from pipelines import tasks

    config = tasks.find(word).config.Config()
    search = trials.Search(trials=2, max_epochs=2, scheduler="none", set=("lr=uniform(0.1, 0.2)",))
    return trials.create(word, config, Launch(run_dir=str(folder), **launch), search)  # type: ignore[arg-type]


def test_room_for_the_workers_of_the_best_is_looked_for_before_the_search_and_waited_for_if_asked(
    ray_cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"--workers is 99, and the cluster has \d+ CPUs; ask for fewer workers, or --w"
    ):
        tuning.search(create(tmp_path / "refused", workers=99), tell)
    with pytest.raises(Told, match=r"waiting for 99 CPUs: the cluster has \d+ CPUs"):
        tuning.search(create(tmp_path / "waiting", workers=99, wait=True), tell)


def test_a_folder_that_another_machine_does_not_see_is_refused_before_the_search(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    made = create(tmp_path / "search")
    made.folder.rename(tmp_path / "moved")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")  # the cluster's only machine is another
    with pytest.raises(ValueError, match=r"the machine at [\d.]+ does not see the run folder '.*/search'"):
        tuning.start(made, tell)


@pytest.mark.timeout(300)
def test_trials_that_all_raise_end_the_search_with_what_the_first_raised(ray_cluster: None, tmp_path: Path) -> None:
    place = tmp_path / "raising"
    shutil.copytree(REGRESSION, place, ignore=shutil.ignore_patterns("__pycache__"))
    code = (place / "train.py").read_text()
    (place / "train.py").write_text(code.replace("    x_B1, y_B1 = batch\n", '    raise KeyError("label")\n', 1))
    said: list[str] = []
    with pytest.raises(ValueError, match=r"no trial of 2 came to its end; KeyError: 'label'"):
        tuning.search(create(tmp_path / "search", str(place), local=True), said.append)
    assert [sentence.split()[2] for sentence in said] == ["failed", "failed"]
    for number in range(2):
        kinds = [event["event"] for event in trials.events(trials.place(tmp_path / "search", number))]
        assert kinds.count("error") == 1, "it is run once"


@pytest.mark.timeout(300)
def test_trials_that_a_full_disk_ends_are_run_again_when_the_search_is_resumed(
    ray_cluster: None, tmp_path: Path
) -> None:
    place, room = tmp_path / "filling", tmp_path / "room"
    shutil.copytree(REGRESSION, place, ignore=shutil.ignore_patterns("__pycache__"))
    code = (place / "train.py").read_text()
    full = f"    if not __import__('os').path.exists({str(room)!r}):\n"
    full += '        raise OSError(28, "No space left on device")\n'
    (place / "train.py").write_text(code.replace("    x_B1, y_B1 = batch\n", f"{full}    x_B1, y_B1 = batch\n", 1))
    made, said = create(tmp_path / "search", str(place), local=True), list[str]()
    with pytest.raises(
        ValueError, match=r"cannot go on: .*No space left.*; make room, then `eagerly tune --resume .*`"
    ):
        tuning.search(made, said.append)
    assert said == [] and {trial.state for trial in trials.known(made.folder).values()} == {"running"}
    room.touch()
    tuning.search(trials.reopen(made.folder), said.append)
    assert [trial.state for trial in trials.known(made.folder).values()] == ["finished", "finished"] and len(said) == 2
