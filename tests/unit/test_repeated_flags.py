"""A flag that takes several values may be given several times, and all that was given counts."""

import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro
from training import PARITY, ROOT

from eagerly import cli, flags
from eagerly.commands import predict, submit, tune
from eagerly.commands.inspect import Look
from eagerly.commands.serve import Serve
from pipelines.jobs import Job
from pipelines.trials import Tuning


@dataclass(frozen=True)
class Inner:
    """Inner."""

    item_ids: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-i"])] = ()
    """Several."""


@dataclass(frozen=True)
class Outer:
    """Outer."""

    inner: Inner = field(default_factory=Inner)
    numbers: tuple[int, ...] | None = None
    """Several numbers, or none."""
    pair: tuple[int, int] = (0, 0)
    """Two numbers."""
    name: str = ""
    """One."""
    local: bool = False
    """Whether local."""


@pytest.mark.parametrize(
    "line",
    [
        "--item-ids a b c",
        "--item-ids a --item-ids b --item-ids c",
        "--item-ids a b --item-ids c",
        "--item-ids=a --item-ids=b c",
        "--item_ids=a --item-ids b --item_ids c",
        "-i a --item-ids b -i=c",
        "--item-ids a --local --item-ids b --name=n --item-ids c",
    ],
)
def test_values_given_together_or_one_by_one_are_the_same(line: str) -> None:
    assert flags.parse(Outer, line.split(), "prog").inner.item_ids == ("a", "b", "c")


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("--numbers -1 --local --numbers -2 3", Outer(numbers=(-1, -2, 3), local=True)),
        ("--pair 1 2 --pair 3 4", Outer(pair=(3, 4))),
        ("--name a --item-ids x --name b", Outer(Inner(("x",)), name="b")),
        ("--item-ids=-x --item-ids y", Outer(Inner(("-x", "y")))),
        ("--item-ids --local", Outer(Inner(()), local=True)),
    ],
)
def test_the_other_flags_are_what_they_were(line: str, parsed: Outer) -> None:
    assert flags.parse(Outer, line.split(), "prog") == parsed


def test_what_is_given_takes_the_place_of_the_defaults_and_of_what_was_given_earlier() -> None:
    before, given = Outer(Inner(("a", "b"))), ["--item-ids", "c", "--item-ids", "d"]
    assert flags.parse(Outer, given, "prog", before).inner.item_ids == ("c", "d")
    assert flags.parse(Outer, given, "prog", earlier=["--item-ids", "a", "b"]).inner.item_ids == ("c", "d")
    assert flags.parse(Outer, [], "prog", earlier=["--item-ids", "a", "b"]).inner.item_ids == ("a", "b")


def test_a_wrong_value_of_a_repeated_flag_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--numbers.*'x'"):
        flags.parse(Outer, ["--numbers", "1", "--numbers", "x"], "prog")


def test_the_search_space_on_the_page_of_tuning_has_both_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [one for one in (ROOT / "docs" / "tuning.md").read_text().splitlines() if one.count("--set ") == 2]
    begun: list[Tuning] = []

    def search(tuning: Tuning) -> None:
        begun.append(tuning)
        raise ValueError("as far as this test goes")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "_search", search)
    assert cli.main(shlex.split(line)[1:]) == 2
    assert begun[0].search.set == ("lr=loguniform(1e-4,1e-1)", "width=choice(32, 64)")
    assert begun[0].words["lr"] == "loguniform(1e-4,1e-1)"
    assert begun[0].words["width"] == "choice(32, 64)"


def test_other_verbs_take_all_values_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--apart", "sentiment=2", "--apart", "classifier", "--threads", "1"]
    assert flags.parse(Serve, words, "eagerly serve").apart == ("sentiment=2", "classifier")
    assert flags.parse(Look, ["--compare", "amp", "--compare", "ddp"], "prog").compare == ("amp", "ddp")
    asked: list[Any] = []
    monkeypatch.setattr(predict, "run", asked.append)
    assert cli.main(["predict", "recommender", "--items", "1", "--items", "2"]) == 0
    assert asked[0].items == ("1", "2")
    tokens = tmp_path / "tokens"
    permissions = ("--permissions", "a.A/*", "--permissions", "b.B/C")
    assert cli.main(["tokens", "new", "app", *permissions, "--tokens", str(tokens)]) == 0
    assert tokens.read_text().split()[2:] == ["a.A/*", "b.B/C"]


def test_a_job_that_goes_on_has_the_values_that_are_given_now_in_place_of_its_own(tmp_path: Path) -> None:
    task = tmp_path / "several"
    shutil.copytree(PARITY, task, ignore=shutil.ignore_patterns("__pycache__"))
    config = (task / "config.py").read_text()
    (task / "config.py").write_text(
        config.replace("longest: int", 'sizes: tuple[int, ...] = ()\n    """."""\n    longest: int')
    )
    plan = {"flags": ["--sizes", "1", "2", "--width=8"], "restarts": 0}
    earlier = Job("j", str(task), "j", "FAILED", 0.0, None, "", plan=plan)
    given = [str(task), "--name", "j", "--sizes", "3", "--sizes", "4"]
    config_now: Any = submit.going_on(submit.read(given), earlier).config
    assert (config_now.sizes, config_now.width) == ((3, 4), 8)
    kept: Any = submit.going_on(submit.read(given[:3]), earlier).config
    assert kept.sizes == (1, 2)
