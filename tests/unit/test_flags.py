"""Flags come from frozen dataclasses, and what is wrong with them is one sentence."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from eagerly import flags


@dataclass(frozen=True)
class Inner:
    """Inner."""

    lr: float = 0.1
    """Learning rate."""
    kind: Literal["sgd", "adam"] = "sgd"
    """Kind."""


@dataclass(frozen=True)
class Outer:
    """Outer."""

    inner: Inner = field(default_factory=Inner)
    local: bool = False
    """Whether local."""
    batch_size: int = 3
    """Size."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; the least allowed is 1")


def test_nested_flags_are_one_flat_set() -> None:
    parsed = flags.parse(Outer, ["--lr", "0.5", "--local", "--batch-size=7"], "prog")
    assert parsed == Outer(Inner(0.5), True, 7)


def test_defaults_can_be_another_object() -> None:
    assert flags.parse(Outer, ["--kind", "adam"], "prog", Outer(Inner(9.0))) == Outer(Inner(9.0, "adam"))


@pytest.mark.parametrize("was", [True, False])
def test_a_switch_of_another_object_is_turned_on_and_off_whatever_it_was(was: bool) -> None:
    before = Outer(local=was)
    assert flags.parse(Outer, ["--local"], "prog", before).local
    assert not flags.parse(Outer, ["--no-local"], "prog", before).local
    assert flags.parse(Outer, [], "prog", before) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batch-siz", "3"], "unrecognized options: --batch-siz.*perhaps --batch-size; see `prog --help`"),
        (["--lr", "fast"], "--lr: .*'fast'.*see `prog --help`"),
        (["--kind", "newton"], r"invalid choice 'newton' for argument '--kind'.*'sgd', 'adam'"),
        (["--batch-size", "0"], "--batch-size is 0; the least allowed is 1; see `prog --help`"),
        (["--batch-size"], "--batch-size"),
        (["stray"], "unrecognized options: stray"),
    ],
)
def test_a_wrong_flag_is_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        flags.parse(Outer, words, "prog")
    assert "\n" not in str(raised.value)
    assert capsys.readouterr() == ("", "")


def test_help_shows_each_flag_and_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        flags.parse(Outer, ["--help"], "prog")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("--lr", "Learning rate.", "--batch-size", "prog"))
