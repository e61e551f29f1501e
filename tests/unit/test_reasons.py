"""Every reason that is documented is given by some code, and every reason that code gives is documented."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "services"


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SERVICES.rglob("*.py")):
        if not path.stem.endswith("_pb2"):
            yield path.stem, ast.parse(path.read_text(encoding="utf-8"))


def reason(node: ast.AST | None) -> str | None:
    """The name in an expression such as `Reason.EMPTY`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
        return node.attr
    return None


def kinds() -> dict[str, str]:
    """The reason of each kind of error that has but one."""
    (errors,) = [tree for name, tree in trees() if name == "errors"]
    return {
        kind.name: name
        for kind in errors.body
        if isinstance(kind, ast.ClassDef)
        for line in kind.body
        if isinstance(line, ast.Assign) and (name := reason(line.value))
    }


def given() -> set[str]:
    """Reasons that code gives by name, or by making an error of their kind; those of errors.py are defaults."""
    found, own = set[str](), kinds()
    for module, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                found |= {own[called]} if called in own else set()
            elif (name := reason(node)) and (module != "errors" or name not in own.values()):
                found.add(name)
    return found


def documented() -> set[str]:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z_]+)` \| [A-Z_]+ \|", text, re.MULTILINE))


def test_every_documented_reason_is_given_by_some_code():
    assert documented() <= given()


def test_every_reason_that_code_gives_is_documented():
    assert given() <= documented()


@pytest.mark.parametrize("name", sorted(one.name for one in Reason))
def test_every_reason_is_documented(name: str):
    assert name in documented()


def test_the_rules_of_what_a_call_may_hold_name_documented_reasons():
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rules = set(re.findall(r"^\| `[a-z_\[\].]+` \| `([A-Z_]+)` \|", text, re.MULTILINE))
    assert rules and rules <= documented() & given()
