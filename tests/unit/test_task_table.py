"""The table of what a task of one's own has, in examples/README.md, names all that the code asks for."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from monitoring import ROOT

from pipelines import tasks

PARTS = ("config", "data", "model", "train")
STAND_INS = {"config_module": "config", "kind": "model", "network": "model"}
"""Names by which the code knows a task's parts besides their own."""
OF_TORCH = {"set_requires_gradient_sync"}
"""What is asked of a network that PyTorch has made of the task's."""
PAGE = (ROOT / "examples" / "README.md").read_text().partition("## What a task has")[2]
REQUIRED, OPTIONAL = PAGE.split("Optional;")


def nodes(*packages: str) -> Iterator[ast.AST]:
    """Parses what asks a task for something: all but the tasks themselves."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            inside = path.relative_to(ROOT).parts
            if inside[1] not in (*tasks.TASKS, "v1"):
                yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def part(node: ast.expr) -> str:
    """Says which part of a task an expression names by its last word; empty for something else."""
    word = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return word if word in PARTS else STAND_INS.get(word, "")


@cache
def optional() -> set[str]:
    """Finds what `hasattr` and `getattr` ask a part of a task for."""
    found = set()
    for node in nodes("pipelines", "services", "eagerly"):
        match node:
            case ast.Call(ast.Name("hasattr" | "getattr"), [of, ast.Constant(str(name)), *_]) if part(of):
                found.add(name)
    return found - OF_TORCH


@cache
def taken() -> set[str]:
    """Finds what is taken from `task.data` and the like, and from the `train` that the evaluation holds, unasked."""
    found = set()
    for node in nodes("pipelines", "services"):
        match node:
            case ast.Attribute(ast.Attribute(ast.Name("task") | ast.Attribute(attr="task"), attr=of), name):
                found |= {name} if of in PARTS else set()
            case ast.Attribute(ast.Attribute(ast.Name("self"), "train"), name):
                found.add(name)
            case ast.FunctionDef() if any(
                isinstance(one, ast.Name) and one.id == "ModuleType" for one in ast.walk(node.args)
            ):
                inside = [one for one in ast.walk(node) if isinstance(one, ast.Attribute)]
                found |= {one.attr for one in inside if isinstance(one.value, ast.Name) and one.value.id == "train"}
    return found


def named(table: str) -> set[str]:
    """Lists the names whose signatures stand in a table."""
    rows = re.findall(r"^\|[^|]*\|((?:\\\||[^|])*)\|", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(?:class )?(?:\w+\.)?(\w+)[^`]*`", row)}


def test_every_optional_name_that_the_code_asks_a_task_for_is_in_the_table() -> None:
    assert {"inputs", "scored", "BLOCKS", "features", "SPACE", "load_apart"} <= optional()
    assert optional() - named(REQUIRED) - named(OPTIONAL) == set()


def test_every_name_that_the_code_takes_from_a_task_is_in_the_table() -> None:
    assert {"load", "Model", "loss", "measure", "metrics", "PRIMARY"} <= taken() & named(REQUIRED)
    assert taken() - named(REQUIRED) - named(OPTIONAL) == set()


def test_a_name_that_is_not_in_the_table_would_be_seen() -> None:
    (node,) = (one for one in ast.walk(ast.parse('getattr(run.task.data, "wishes", ())')) if isinstance(one, ast.Call))
    assert part(node.args[0]) == "data" and "wishes" not in named(OPTIONAL)
    assert part(ast.parse("self.place", mode="eval").body) == ""
    (row,) = (line for line in OPTIONAL.splitlines() if "`inputs(" in line)
    assert "inputs" in optional() & named(OPTIONAL) and "inputs" not in named(OPTIONAL.replace(row, ""))


@pytest.mark.parametrize("name", ["linear_regression", "parity"])
def test_the_examples_have_all_that_is_required(name: str) -> None:
    task = tasks.find(str(ROOT / "examples" / name))
    assert all(hasattr(task.train, one) for one in ("PRIMARY", "loss", "measure", "metrics"))
    members = re.findall(r"`(?:Model\.)?(\w+)\(", REQUIRED.partition("model.py")[2].partition("train.py")[0])
    assert set(members) == {"create", "load", "save", "to", "predict", "examples"}
    assert all(hasattr(task.model.Model, one) for one in members)
    loaded = task.data.load(task.config.Config())
    assert all(hasattr(loaded.train, one) for one in ("__len__", "to", "batch", "lengths"))
