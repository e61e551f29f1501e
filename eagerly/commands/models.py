"""`eagerly models`: the registered versions and which of them serves."""

from typing import TYPE_CHECKING

from eagerly import table

if TYPE_CHECKING:
    from pipelines.registry import Version

USAGE = (
    "`eagerly models list [TASK]`, `show TASK VERSION`, `gate TASK VERSION`, `promote TASK VERSION`, `rollback TASK`"
)
HELP = """usage: eagerly models list [TASK]
       eagerly models show TASK [VERSION]
       eagerly models gate TASK VERSION
       eagerly models promote TASK VERSION
       eagerly models rollback TASK

list shows every version with its metric, digest, run and alias; show adds all test metrics of one version,
by default the champion, and why it became champion or not; gate judges a version against the champion again,
on the test examples of its run, and promotes it if it beats the champion; promote makes a version the champion,
the one that is served, whatever the gate says; rollback goes back to the champion before.
The registry is at MLFLOW_TRACKING_URI, by default mlflow.db in the working folder."""


def main(words: list[str]) -> int:
    """Runs `eagerly models ...`. Raises ValueError for a call that is not as USAGE says."""
    match words:
        case ["--help" | "-h"]:
            print(HELP)
        case ["list"]:
            _list(None)
        case ["list", name]:
            _list(name)
        case ["show", name]:
            _show(name, None)
        case ["show", name, version]:
            _show(name, _number(version))
        case ["gate", name, version]:
            _gate(name, _number(version))
        case ["promote", name, version]:
            _promote(name, _number(version))
        case ["rollback", name]:
            _rollback(name)
        case _:
            raise ValueError(f"`eagerly models {' '.join(words)}` is not understood; it is {USAGE}")
    return 0


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"version {text!r} is no version number; versions count from 1")
    return int(text)


def _list(name: str | None) -> None:
    from pipelines import registry

    names = registry.names() if name is None else [name]
    rows = [_row(version) for model in names for version in registry.versions(model)]
    if name is not None:
        registry.require(name)
    print(table.render(("model", "version", "alias", "metric", "value", "digest", "run"), rows))
    if not rows:
        print("no versions yet; `eagerly train classifier` trains and registers one")


def _row(found: "Version") -> tuple[object, ...]:
    alias, value = "champion" if found.champion else "", found.metrics.get(found.primary, float("nan"))
    return found.name, found.version, alias, found.primary, value, found.digest[:12], found.run_id


def _show(name: str, number: int | None) -> None:
    from pipelines import registry

    registry.require(name)
    found = registry.champion(name) if number is None else registry.get(name, number)
    facts = [
        ("model", found.name),
        ("version", found.version),
        ("alias", "champion" if found.champion else ""),
        ("digest", found.digest),
        ("run", found.run_id),
        ("artifact", found.source),
        ("gate", found.gate),
        *((f"test {metric}", value) for metric, value in found.metrics.items()),
    ]
    print(table.render(("fact", "value"), facts))


def _gate(name: str, number: int) -> None:
    from pipelines import promotion

    found, reason = promotion.judge_again(name, number)
    print(f"{found.name} version {found.version}: {reason}")
    print(f"report: {promotion.FOLDER}/report.html among the artifacts of MLflow run {found.run_id}")


def _promote(name: str, number: int) -> None:
    from pipelines import registry

    found = registry.promote(name, number)
    print(f"{found.name} version {found.version} is champion; `eagerly models rollback {name}` goes back")


def _rollback(name: str) -> None:
    from pipelines import registry

    found = registry.rollback(name)
    print(f"{found.name} version {found.version} is champion again")
