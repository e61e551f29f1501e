"""The command `eagerly`: finds the verb, and turns every expected mistake into one sentence and exit code 2."""

import importlib
import os
import sys

from eagerly import usage

VERBS = {
    "train": "train a task's model through Ray Train, log it to MLflow, register it",
    "tune": "search a task's settings with Ray Tune, train the best out",
    "record": "bring runs into MLflow that were trained while it was away",
    "submit": "train on a cluster as a job that survives, waits its turn and is found by name",
    "jobs": "list, follow, stop and wait for jobs, also once their cluster is gone",
    "cluster": "start and end a Ray cluster on this machine to submit jobs to",
    "inspect": "run one real step and show its graph, values, costs and numerics",
    "models": "list, show, promote and roll back the registered versions",
    "rollout": "try a version beside the champion, as a shadow or a canary; promote or abort",
    "serve": "serve the champions over gRPC",
    "predict": "call a served model",
    "tokens": "make the tokens that callers of an endpoint need",
    "demo": "train three models, serve them, call them, all on embedded data",
}
USAGE = "usage: eagerly VERB [flags]"


def main(words: list[str] | None = None) -> int:
    """Runs a verb and returns the exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    verb, *rest = (sys.argv[1:] if words is None else words) or ["--help"]
    if verb in usage.HELP:
        print(_help())
        return 0
    if verb == "--version":
        from importlib.metadata import version

        print(version("eagerly"))
        return 0
    if verb not in VERBS:
        return _refuse(f"unknown verb {verb!r}; there are {', '.join(VERBS)}")
    try:
        return _run(verb, rest)
    except ValueError as problem:
        return _refuse(str(problem))
    except ModuleNotFoundError as problem:
        if problem.name is None or problem.name.partition(".")[0] in ("eagerly", "pipelines", "services"):
            raise
        lack = f"`eagerly {verb}` needs {problem.name}, which the light client lacks"
        return _refuse(f"{lack}; in the checkout, pip install '.[cluster]'")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("eagerly: interrupted", file=sys.stderr)
        return 130


def _run(verb: str, words: list[str]) -> int:
    """Runs a verb, or shows the help of one of its own verbs, before anything is asked or made."""
    command = importlib.import_module(f"eagerly.commands.{verb}")
    shown = usage.asked(words, f"eagerly {verb}", command.VERBS, command.HELP) if hasattr(command, "VERBS") else None
    if shown is not None:
        print(shown)
        return 0
    return command.main(words) or 0


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join([USAGE, "", *lines, "", "`eagerly VERB --help` shows a verb's flags."])


def _refuse(sentence: str) -> int:
    print(f"eagerly: {' '.join(sentence.split())}", file=sys.stderr)
    return 2
