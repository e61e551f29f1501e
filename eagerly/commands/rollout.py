"""`eagerly rollout`: a version is tried beside the champion, as a shadow or as a canary, then promoted or dropped."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from eagerly import flags, steps, table, usage
from eagerly.usage import Verb
from pipelines import tracking

if TYPE_CHECKING:
    from pipelines.policy import Limits, Rollout, Tally, Times

VERBS = {
    "start": Verb(
        "TASK --to VERSION (--shadow SHARE | --canary SHARE) [limits]",
        "Has every replica load a version beside the champion, and tries it on a share of the calls.",
        has_flags=True,
    ),
    "status": Verb("TASK", "Shows what was counted of the version and of the champion, by node and together."),
    "promote": Verb("TASK [--force]", "Makes the version champion; with --force also one that was rolled back."),
    "abort": Verb("TASK", "Drops the version; the champion serves on."),
}
HELP = usage.page(
    "eagerly rollout",
    VERBS,
    """start has every replica load a version beside the champion: --shadow 10% copies a tenth of the calls to it once
their callers are answered, and compares; --canary 5% has it answer a twentieth of the calls. A version that fails more,
is slower or disagrees more than the limits allow is rolled back by itself (`eagerly rollout start --help` shows them).
status shows what was counted, by node and together; promote makes the version champion; abort drops it.
The state lies in the registry at MLFLOW_TRACKING_URI, by default mlflow.db in the working folder.""",
)


@dataclass(frozen=True)
class Start:
    """Tries a version beside the champion. Shares are written as 10% or 0.1."""

    task: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="TASK")]]
    """The model's name in the registry, such as sentiment."""
    to: int
    """The version to try."""
    shadow: str = ""
    """Share of the calls to copy to it once they are answered, above 0 and at most 100%."""
    canary: str = ""
    """Share of the calls for it to answer, above 0 and below 100%."""
    max_errors: str = "1%"
    """Share of its calls that may fail beyond the champion's share."""
    max_slower: float | None = None
    """Its typical latency, at most, as a multiple of the champion's; 1.5 for a canary, 2 for a shadow unless given."""
    max_disagreement: str = ""
    """Share of a shadow's answers that may differ from the champion's; 5% unless given."""
    least_calls: int = 200
    """Calls before latency and disagreement are judged; errors are from a tenth of it on."""

    def __post_init__(self) -> None:
        """Raises ValueError for what is out of range, or does not go together."""
        if self.to < 1:
            raise ValueError(f"--to is {self.to}; versions count from 1")
        if bool(self.shadow) == bool(self.canary):
            given = "both" if self.shadow else "neither"
            raise ValueError(f"--shadow and --canary: {given} given; give one, as in --shadow 10% or --canary 5%")
        if self.canary and self.max_disagreement:
            raise ValueError("--max-disagreement needs --shadow: only one model answers a canary's call")
        if self.max_slower is not None and not 1 <= self.max_slower < math.inf:
            raise ValueError(f"--max-slower is {self.max_slower:g}; it must be finite, 1 or more")
        if self.least_calls < 1:
            raise ValueError(f"--least-calls is {self.least_calls}; the least allowed is 1")
        self.limits()
        self.share()

    @property
    def mode(self) -> Literal["shadow", "canary"]:
        """How the version is tried."""
        return "shadow" if self.shadow else "canary"

    def share(self) -> float:
        """Reads the share; raises ValueError when it is out of range."""
        text = self.shadow or self.canary
        share = percent(f"--{self.mode}", text)
        if share <= 0 or (share == 1 and self.mode == "canary"):
            most = "at most 100%" if self.shadow else "below 100%; `eagerly rollout promote` gives it all calls"
            raise ValueError(f"--{self.mode} is {text}; it must be above 0 and {most}")
        return share

    def limits(self) -> "Limits":
        """Reads the limits; raises ValueError for what is no share."""
        from pipelines.policy import Limits

        errors = percent("--max-errors", self.max_errors)
        disagreement = percent("--max-disagreement", self.max_disagreement or "5%")
        slower = self.max_slower or (1.5 if self.canary else 2.0)
        return Limits(errors, slower, disagreement, self.least_calls)


def percent(flag: str, text: str) -> float:
    """Reads a share, written as 10% or 0.1; raises ValueError for what is none from 0 to 1."""
    bare = text.strip().removesuffix("%")
    try:
        share = float(bare) / (100 if bare != text.strip() else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"{flag} is {text!r}; it must be a share from 0 to 1, written as 10% or 0.1")
    return share


def main(words: list[str]) -> int:
    """Runs `eagerly rollout ...`. Raises ValueError for a call that is not as VERBS says, or a store that is away."""
    with tracking.asked():
        return _run(words)


def _run(words: list[str]) -> int:
    match words:
        case ["start", *rest]:
            _start(flags.parse(Start, rest, "eagerly rollout start"))
        case ["status", task]:
            _status(task)
        case ["promote", task]:
            _promote(task, force=False)
        case ["promote", task, "--force"] | ["promote", "--force", task]:
            _promote(task, force=True)
        case ["abort", task]:
            _abort(task)
        case _:
            raise usage.mistake(words, "eagerly rollout", VERBS)
    return 0


def _start(args: Start) -> None:
    from pipelines import rollout

    made = rollout.start(args.task, args.to, args.mode, args.share(), args.limits())
    verb = "gets copies of" if made.mode == "shadow" else "answers"
    print(
        f"{args.task} version {made.version} {verb} {100 * made.share:g}% of the calls beside version {made.champion}"
    )
    steps.show(f"eagerly rollout status {args.task}", f"eagerly rollout abort {args.task}")


def _promote(task: str, force: bool) -> None:
    from pipelines import rollout

    _, version = rollout.promote(task, force)
    print(f"{task} version {version.version} is champion")
    steps.show(f"eagerly models show {task}", f"eagerly models rollback {task}")


def _abort(task: str) -> None:
    from pipelines import rollout

    done = rollout.abort(task)
    print(f"the rollout of {task} version {done.version} is aborted; version {done.champion} serves on")
    steps.show(f"eagerly rollout status {task}", f"eagerly models list {task}")


def _status(task: str) -> None:
    from pipelines import registry, rollout
    from pipelines.policy import Tally

    registry.require(task)
    aim = registry.aim(task)
    found = rollout.latest(aim)
    if aim is None or found is None:
        print(f"no rollout of {task} runs, nor has one; `eagerly rollout start {task} --to VERSION --shadow 10%` does")
        steps.show(f"eagerly models list {task}")
        return
    told = rollout.reports(aim.tags, found)
    print(table.render(("rollout", task), _facts(found)))
    rows = [row for node, report in sorted(told.items()) for row in _rows(node, found, report.tally)]
    if len(told) > 1:
        rows += _rows("together", found, sum((report.tally for report in told.values()), Tally()))
    print()
    print(table.render(("node", "version", "calls", "errors", "wait ms", "work ms", "agreement", "dropped"), rows))
    for node, report in sorted(told.items()):
        if report.problem:
            print(f"{node}: {report.problem}")
    if not told:
        print("no node has told anything yet; each does within seconds, of the services that it runs")
    print()
    steps.show(*_next(task, found))


def _facts(found: "Rollout") -> list[tuple[str, object]]:
    limits = found.limits
    allowed = [f"errors +{100 * limits.max_errors:g}%", f"latency x{limits.max_slower:g}"]
    if found.mode == "shadow":
        allowed.append(f"disagreement {100 * limits.max_disagreement:g}%")
    return [
        ("candidate", f"version {found.version}"),
        ("champion", f"version {found.champion}"),
        ("state", found.state),
        *([("reason", found.reason)] if found.reason else []),
        (found.mode, f"{100 * found.share:g}% of the calls"),
        ("limits", f"{', '.join(allowed)}, from {limits.least_calls} calls on"),
    ]


def _rows(node: str, found: "Rollout", tally: "Tally") -> list[tuple[object, ...]]:
    """Gives a row for the candidate and one for the champion."""
    agreement = f"{1 - tally.disagreement:.2%}" if tally.compared else ""
    dropped = tally.dropped if found.mode == "shadow" else ""
    mine, theirs = tally.candidate, tally.champion
    return [
        (node, found.version, mine.calls, mine.errors, _ms(mine.waits), _ms(mine.work), agreement, dropped),
        (node, found.champion, theirs.calls, theirs.errors, _ms(theirs.waits), _ms(theirs.work), "", ""),
    ]


def _ms(times: "Times") -> float | str:
    return times.typical_s * 1e3 if times.count else ""


def _next(task: str, found: "Rollout") -> list[str]:
    again = f"eagerly rollout start {task} --to {found.version} --{found.mode} {100 * found.share:g}%"
    return {
        "running": [f"eagerly rollout promote {task}", f"eagerly rollout abort {task}"],
        "rolled back": [f"eagerly models list {task}", f"eagerly rollout promote {task} --force"],
        "promoted": [f"eagerly models show {task}", f"eagerly models rollback {task}"],
    }.get(found.state, [again])
