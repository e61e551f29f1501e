"""`eagerly models`: the registered versions and which of them serves."""

from typing import TYPE_CHECKING

from eagerly import steps, table, usage
from eagerly.usage import Verb
from pipelines import tasks, tracking

if TYPE_CHECKING:
    from pipelines.registry import Version

VERBS = {
    "list": Verb("[TASK]", "Shows every version with its metric, digest, run and alias."),
    "show": Verb(
        "TASK [VERSION]",
        "Shows all test metrics of a version, by default the champion, and why it became champion or not.",
    ),
    "gate": Verb("TASK VERSION", "Judges a version against the champion again, and promotes it if it beats it."),
    "promote": Verb("TASK VERSION", "Makes a version the champion, the one that is served, whatever the gate says."),
    "rollback": Verb("TASK", "Makes the champion before the champion again."),
}
HELP = usage.page(
    "eagerly models",
    VERBS,
    """list shows every version with its metric, digest, run and alias; show adds all test metrics of one version,
by default the champion, and why it became champion or not; gate judges a version against the champion again,
on the test examples of its run, and promotes it if it beats the champion; promote makes a version the champion,
the one that is served, whatever the gate says; rollback goes back to the champion before.
The registry is at MLFLOW_TRACKING_URI, by default mlflow.db in the working folder.""",
)


def main(words: list[str]) -> int:
    """Runs `eagerly models ...`. Raises ValueError for a call that is not as VERBS says, or a store that is away."""
    with tracking.asked():
        return _run(words)


def _run(words: list[str]) -> int:
    match words:
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
            raise usage.mistake(words, "eagerly models", VERBS)
    return 0


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"version {text!r} is no version number; versions count from 1")
    return int(text)


def _list(name: str | None) -> None:
    from pipelines import registry

    names = registry.names() if name is None else [name]
    found = [version for model in names for version in registry.versions(model)]
    if name is not None:
        registry.require(name)
    rows = [_row(version) for version in found]
    print(table.render(("model", "version", "alias", "metric", "value", "digest", "run"), rows))
    if not found:
        print("no versions yet")
        steps.show("eagerly train classifier")
        return
    first = next((version for version in found if version.champion), found[0])
    steps.show(f"eagerly models show {first.name} {first.version}", *_then(first))


def _row(found: "Version") -> tuple[object, ...]:
    alias, value = "champion" if found.champion else "", found.metrics.get(found.primary, float("nan"))
    return found.name, found.version, alias, found.primary, value, found.digest[:12], found.run_id


def _then(found: "Version") -> list[str]:
    """Says what is done with a version next; a task of one's own is served by its folder, unknown here."""
    if not found.champion:
        return [f"eagerly models promote {found.name} {found.version}"]
    return [f"eagerly serve {found.name}"] if found.name in tasks.TASKS else []


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
    steps.show(*(_then(found) or ["eagerly models list " + found.name]))


def _gate(name: str, number: int) -> None:
    from pipelines import promotion

    found, reason = promotion.judge_again(name, number)
    print(f"{found.name} version {found.version}: {reason}")
    print(f"report: {promotion.FOLDER}/report.html among the artifacts of MLflow run {found.run_id}")
    steps.show(f"eagerly models show {name} {number}", *_then(found))


def _promote(name: str, number: int) -> None:
    from pipelines import registry

    found = registry.promote(name, number)
    print(f"{found.name} version {found.version} is champion")
    steps.show(f"eagerly models show {name}", *_then(found), f"eagerly models rollback {name}")


def _rollback(name: str) -> None:
    from pipelines import registry

    found = registry.rollback(name)
    print(f"{found.name} version {found.version} is champion again")
    steps.show(f"eagerly models show {name}", *_then(found))
