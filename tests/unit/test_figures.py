"""The commands that the documentation names for its figures are those that there are."""

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import FIGURES, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("docs/**/*.md"))))


def test_make_bench_runs_the_commands_of_the_readmes_figures():
    section = (ROOT / "README.md").read_text().split("\n## Figures\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| .+? \| `((?:\w+=\w+ )?python -m [^`]+)` \| .+ \|$", section, re.MULTILINE)
    assert rows == list(FIGURES)
    assert len(rows) == section.count("\n| ") - 1, "the head is the only row without a command"


@pytest.mark.parametrize("page", PAGES)
def test_a_benchmark_that_is_named_is_there_and_has_these_flags(page: str):
    text = re.sub(r"\s+", " ", (ROOT / page).read_text())
    for name, words in re.findall(r"`[^`]*?python -m benchmarks\.(\w+)([^`]*)`", text):
        file = ROOT / "benchmarks" / f"{name}.py"
        source = (file if file.exists() else ROOT / "benchmarks" / name / "__main__.py").read_text()
        for flag in re.findall(r"--[a-z-]+", words):
            assert f'"{flag}"' in source, f"{page}: python -m benchmarks.{name} has no {flag}"


def test_a_command_that_fails_keeps_none_after_it_from_running(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SEEN", "no")
    failing, passing = "python -c 'raise SystemExit(3)'", "SEEN=yes python -c 'import os; print(os.environ[\"SEEN\"])'"
    assert main([failing, passing]) == 1
    assert capfd.readouterr().out.splitlines()[-3:] == ["", "over the limit or failed:", failing]
    assert main([passing]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "yes"
