"""`eagerly tune --resume` goes on as the search was begun, but for the two flags that it takes."""

from pathlib import Path
from typing import Any

import pytest

from eagerly.commands import train, tune
from pipelines import runs, tasks, trials
from pipelines.settings import Launch
from pipelines.trials import Trial, Tuning

BEST = Trial(1, {"lr": 0.02}, "finished", 0.9, 8)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A search's folder, and what the verb asks of the search and of the training of its best."""
    folder, asked = tmp_path / "tune", {}
    config = tasks.find("classifier").config.Config(epochs=3)
    trials.create("classifier", config, Launch(run_dir=str(folder), workers=2), trials.Search())

    def search(tuning: Tuning) -> Trial:
        asked["tuning"] = tuning
        return BEST

    def train_out(launch: Launch, found: list[runs.Run]) -> int:
        asked.update(launch=launch, runs=found)
        return 0

    monkeypatch.setattr(tune, "_search", search)
    monkeypatch.setattr(train, "train", train_out)
    return asked | {"folder": folder, "asked": asked}


@pytest.mark.parametrize(("words", "wait"), [([], False), (["--wait"], True)])
def test_a_search_that_is_resumed_waits_for_room_if_asked_to(
    begun: dict[str, Any], words: list[str], wait: bool
) -> None:
    assert tune.main(["--resume", str(begun["folder"]), *words]) == 0
    tuning, launch = begun["asked"]["tuning"], begun["asked"]["launch"]
    assert (tuning.launch.wait, launch.wait) == (wait, wait)
    assert (tuning.anyway, launch.resume_anyway, launch.workers) == (False, False, 2)


def test_the_best_of_a_search_that_goes_on_anyway_is_trained_out_anyway(begun: dict[str, Any]) -> None:
    place = begun["folder"] / trials.BEST
    for _ in range(2):  # and again once its folder is there
        assert tune.main(["--resume", str(begun["folder"]), "--resume-anyway"]) == 0
        launch, (run,) = begun["asked"]["launch"], begun["asked"]["runs"]
        assert begun["asked"]["tuning"].anyway
        assert (launch.resume, launch.resume_anyway, launch.run_dir) == (str(place), True, "")
        assert (run.folder, run.config.lr, run.config.epochs) == (place, 0.02, 3)
