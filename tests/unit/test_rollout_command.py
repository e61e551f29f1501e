"""`eagerly rollout`: what it starts, shows and ends in a real MLflow store, and what it refuses, in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eagerly import flags
from eagerly.cli import main
from eagerly.commands.rollout import Start
from pipelines import registry, rollout, tracking
from pipelines.policy import Limits, Role, Rollout, Tally, Times

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with sentiment 1 to 3, the first of which is champion, and a classifier without a champion."""
    import mlflow

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in ("sentiment", "sentiment", "sentiment", "classifier"):
        run_id = mlflow.MlflowClient(tracking.uri()).create_run("0").info.run_id
        registry.register(name, str(tmp_path), run_id, "0" * 64, {"accuracy": 0.5}, "accuracy", "never")
    registry.promote("sentiment", 1)


def stands() -> Rollout:
    found = rollout.latest(registry.aim("sentiment"))
    assert found
    return found


def told(node: str, calls: int, errors: int, problem: str = "") -> None:
    """Writes a node's figures as its watcher does."""
    aim = registry.aim("sentiment")
    assert aim
    waits = Times(calls, -4.6 * calls, 21.2 * calls)
    tally = Tally(Role(calls, 0, waits), Role(calls, errors, waits), compared=calls, agreed=calls / 2, dropped=1)
    rollout.report("sentiment", node, rollout.Report(stands().id, 1, tally, problem), aim)


def eagerly(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line.split()) == 0, capsys.readouterr().err
    return capsys.readouterr().out


START = "rollout start sentiment --to 2"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("rollout", "`eagerly rollout` is not understood; it is `eagerly rollout start TASK --to VERSION ("),
        ("rollout stop sentiment", "`eagerly rollout stop sentiment` is not understood"),
        (START, "--shadow and --canary: neither given; give one, as in --shadow 10% or --canary 5%"),
        (f"{START} --shadow 10% --canary 5%", "--shadow and --canary: both given; give one"),
        (f"{START} --canary 0", "--canary is 0; it must be above 0 and below 100%"),
        (f"{START} --canary 100%", "--canary is 100%; it must be above 0 and below 100%"),
        (f"{START} --shadow 5", "--shadow is '5'; it must be a share from 0 to 1, written as 10% or 0.1"),
        (f"{START} --shadow nan", "--shadow is 'nan'; it must be a share from 0 to 1, written as 10% or 0.1"),
        (f"{START} --shadow ten", "--shadow is 'ten'; it must be a share from 0 to 1"),
        (f"{START} --shadow 10% --max-errors 200%", "--max-errors is '200%'; it must be a share from 0 to 1"),
        (f"{START} --shadow 10% --max-slower 0.5", "--max-slower is 0.5; it must be finite, 1 or more"),
        (f"{START} --shadow 10% --least-calls 0", "--least-calls is 0; the least allowed is 1"),
        (f"{START} --canary 10% --max-disagreement 5%", "--max-disagreement needs --shadow: only one model answers"),
        ("rollout start sentiment --to 0 --shadow 10%", "--to is 0; versions count from 1"),
        ("rollout start sentiment --shadow 10%", "--to"),
        ("rollout start sentiment --to 9 --shadow 10%", "sentiment has no version 9; it has 3, 2, 1"),
        (
            "rollout start sentiment --to 1 --shadow 10%",
            "sentiment version 1 is the champion already; --to another version: it has also 3, 2",
        ),
        ("rollout start nothing --to 1 --shadow 10%", "no model 'nothing' in sqlite:"),
        ("rollout start classifier --to 1 --shadow 10%", "no champion for classifier in sqlite:"),
        ("rollout promote sentiment", "no rollout of sentiment runs, nor has one; `eagerly models promote sentiment"),
        ("rollout abort sentiment", "no rollout of sentiment runs, nor has one; there is nothing to abort"),
        ("rollout status nothing", "no model 'nothing' in sqlite:"),
    ],
)
def test_a_mistake_is_one_sentence(line: str, sentence: str, store: None, capsys: pytest.CaptureFixture[str]):
    assert main(line.split()) == 2
    (last,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert last.startswith("eagerly: ")
    assert sentence in last
    assert rollout.latest(registry.aim("sentiment")) is None


def test_a_start_writes_what_every_machine_can_read(store: None, capsys: pytest.CaptureFixture[str]):
    line = f"{START} --shadow 12.5% --max-errors 0.02 --max-slower 2 --max-disagreement 10% --least-calls 50"
    shown = eagerly(line, capsys)
    assert "sentiment version 2 gets copies of 12.5% of the calls beside version 1" in shown
    assert "next       eagerly rollout status sentiment\n" in shown
    found = stands()
    assert (found.version, found.champion, found.mode, found.share, found.state) == (2, 1, "shadow", 0.125, "running")
    assert found.limits == Limits(0.02, 2.0, 0.1, 50)


def test_a_second_start_is_refused_until_the_first_has_ended(store: None, capsys: pytest.CaptureFixture[str]):
    eagerly(f"{START} --canary 0.05", capsys)
    assert main(["rollout", "start", "sentiment", "--to", "3", "--canary", "5%"]) == 2
    assert "a rollout of sentiment version 2 (canary) is running; `eagerly rollout promote" in capsys.readouterr().err
    told("here", 10, 0)
    assert "aborted; version 1 serves on" in eagerly("rollout abort sentiment", capsys)
    again = "next       eagerly rollout start sentiment --to 2 --canary 5%\n"
    assert again in eagerly("rollout status sentiment", capsys)
    assert main(["rollout", "abort", "sentiment"]) == 2
    assert "the last, of version 2, is aborted; there is nothing to abort" in capsys.readouterr().err
    eagerly("rollout start sentiment --to 3 --canary 5%", capsys)
    assert stands().version == 3
    aim = registry.aim("sentiment")
    assert aim and not [key for key in aim.tags if key.startswith(rollout.NODE)], "old figures are gone"


def test_status_shows_nodes_and_together_and_what_to_do_next(store: None, capsys: pytest.CaptureFixture[str]):
    assert "no rollout of sentiment runs, nor has one; `eagerly rollout start" in eagerly(
        "rollout status sentiment", capsys
    )
    eagerly(f"{START} --shadow 10%", capsys)
    assert "no node has told anything yet" in eagerly("rollout status sentiment", capsys)
    told("node-a", 30, 1)
    told("node-b", 10, 0, "version 2 cannot be fetched: no route")
    shown = eagerly("rollout status sentiment", capsys)
    rows = [line.split() for line in shown.splitlines()]
    assert ["node-a", "2", "30", "1"] in [row[:4] for row in rows]
    assert ["together", "2", "40", "1"] in [row[:4] for row in rows]
    assert ["together", "1", "40", "0"] in [row[:4] for row in rows]
    assert "50.00%" in shown and "10.05" in shown, "half of the answers agree; e^-4.6 s is 10.05 ms"
    assert "node-b: version 2 cannot be fetched: no route" in shown
    assert "next       eagerly rollout promote sentiment\n           eagerly rollout abort sentiment\n" in shown


def test_promote_makes_the_candidate_champion_and_keeps_the_history(store: None, capsys: pytest.CaptureFixture[str]):
    eagerly(f"{START} --canary 10%", capsys)
    shown = eagerly("rollout promote sentiment", capsys)
    assert "sentiment version 2 is champion\n" in shown and "eagerly models rollback sentiment\n" in shown
    assert registry.champion("sentiment").version == 2
    assert stands().state == "promoted"
    assert "promoted" in eagerly("rollout status sentiment", capsys)
    assert main(["rollout", "promote", "sentiment"]) == 2
    assert "the last, of version 2, is promoted" in capsys.readouterr().err
    assert registry.rollback("sentiment").version == 1


def test_a_candidate_that_was_rolled_back_is_promoted_only_by_force(store: None, capsys: pytest.CaptureFixture[str]):
    eagerly(f"{START} --canary 10%", capsys)
    assert rollout.end("sentiment", stands(), "rolled back", "errors: too many")
    shown = eagerly("rollout status sentiment", capsys)
    assert "errors: too many" in shown and "eagerly rollout promote sentiment --force\n" in shown
    assert main(["rollout", "promote", "sentiment"]) == 2
    assert (
        "sentiment version 2 was rolled back: errors: too many; `eagerly rollout promote sentiment --force`"
        in capsys.readouterr().err
    )
    assert registry.champion("sentiment").version == 1
    eagerly("rollout promote sentiment --force", capsys)
    assert registry.champion("sentiment").version == 2


def test_a_champion_moved_meanwhile_is_not_overruled_by_promote(store: None, capsys: pytest.CaptureFixture[str]):
    eagerly(f"{START} --canary 10%", capsys)
    registry.promote("sentiment", 3)
    assert main(["rollout", "promote", "sentiment"]) == 2
    assert "champion of sentiment was moved to version 3 since the rollout of version 2 began" in (
        capsys.readouterr().err
    )
    assert registry.champion("sentiment").version == 3


def test_nonsense_in_the_tags_is_no_rollout(store: None, capsys: pytest.CaptureFixture[str]):
    eagerly(f"{START} --canary 10%", capsys)
    told("node-a", 5, 0)
    registry.tag("sentiment", f"{rollout.NODE}node-b", json.dumps({"id": stands().id, "tally": 3}))
    shown = eagerly("rollout status sentiment", capsys)
    assert "node-a" in shown and "node-b" not in shown
    registry.tag("sentiment", rollout.TAG, "{")
    assert "no rollout of sentiment runs" in eagerly("rollout status sentiment", capsys)


@pytest.mark.parametrize("page", ["README.md", "docs/rollout.md"])
def test_what_users_are_told_to_type_is_understood(page: str):
    text = (ROOT / page).read_text()
    lines = [line.partition("#")[0].split() for line in text.splitlines() if line.startswith("eagerly rollout ")]
    starts = [flags.parse(Start, words[3:], "eagerly rollout start") for words in lines if words[2] == "start"]
    assert starts and all(0 < start.share() <= 1 for start in starts)
    assert {words[2] for words in lines} >= {"start", "status", "promote"}


def test_help_says_how(store: Any, capsys: pytest.CaptureFixture[str]):
    assert "--canary 5%" in eagerly("rollout --help", capsys)


def while_promoting(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Has something happen between the first call of a promotion and its last."""
    promote = registry.promote

    def slow(task: str, version: int) -> registry.Version:
        act()
        return promote(task, version)

    monkeypatch.setattr(registry, "promote", slow)


def test_a_roll_back_while_promote_runs_is_not_overruled(
    store: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    registry.promote("sentiment", 3)
    registry.promote("sentiment", 1)
    eagerly(f"{START} --canary 10%", capsys)
    while_promoting(monkeypatch, lambda: rollout.end("sentiment", stands(), "rolled back", "errors: too many"))
    assert main(["rollout", "promote", "sentiment"]) == 2
    assert (
        "the rollout of sentiment version 2 ended while it was promoted: it is rolled back: errors: too many"
        in capsys.readouterr().err
    )
    assert registry.champion("sentiment").version == 1
    assert (stands().state, stands().reason) == ("rolled back", "errors: too many")
    assert registry.rollback("sentiment").version == 3, "the history is as it was"


def test_a_node_that_sees_the_promotion_first_does_not_undo_it(
    store: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    eagerly(f"{START} --canary 10%", capsys)
    while_promoting(monkeypatch, lambda: rollout.end("sentiment", stands(), "promoted", "champion was moved"))
    eagerly("rollout promote sentiment", capsys)
    assert registry.champion("sentiment").version == 2
    assert stands().state == "promoted"


def test_a_roll_back_just_before_an_abort_stands(
    store: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    eagerly(f"{START} --canary 10%", capsys)
    aim, looks = registry.aim, []

    def look(task: str) -> registry.Aim | None:
        found = aim(task)
        looks.append(task)
        if len(looks) == 1:
            assert rollout.end(task, stands(), "rolled back", "errors: too many")
        return found

    monkeypatch.setattr(registry, "aim", look)
    assert main(["rollout", "abort", "sentiment"]) == 2
    assert "the last, of version 2, is rolled back, since a moment ago" in capsys.readouterr().err
    assert (stands().state, stands().reason) == ("rolled back", "errors: too many")
