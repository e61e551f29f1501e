"""Registers a run's model and lets the gate decide; what the verdict was made of goes to MLflow beside it.

Light: what the gate needs, torch too, is imported when there is a champion to judge against.
"""

import tempfile
from pathlib import Path
from typing import Any

from pipelines import outages, registry
from pipelines.registry import Judge, Version
from pipelines.runs import ABOUT
from pipelines.verdict import Verdict

FOLDER = "gate"
"""Folder of a run, here and in MLflow, that holds the verdict and what it was made of."""
PARTS = (ABOUT, "examples.safetensors")
"""What is needed to judge a run's model again, besides its data."""
PATIENCE_S = 240.0
"""How long a champion may take to answer while a training waits to end."""


def register(
    run_dir: Path, about: dict[str, Any], test: dict[str, Any], source: str, run_id: str
) -> tuple[Version, str]:
    """Registers the model of a run that was tested, and promotes it as its flags ask; says why or why not."""
    registry.attach(run_id, [path for name in PARTS if (path := run_dir / name).is_file()], FOLDER)
    facts = (about["task"], source, run_id, test["digest"], test["metrics"], test["primary"])
    return registry.register(*facts, about["launch"]["promote"], _judge(run_dir, PATIENCE_S))


def judge_again(name: str, number: int) -> tuple[Version, str]:
    """Judges a registered version against the champion of now, by what its run left in MLflow, and without haste.

    Raises ValueError when it is the champion, or its run left nothing to judge by.
    """
    found = registry.get(name, number)
    if found.champion:
        raise ValueError(f"{name} version {number} is the champion; the gate judges other versions against it")
    with tempfile.TemporaryDirectory() as folder:
        return registry.settle(found, "gate", _judge(registry.attached(found.run_id, FOLDER, Path(folder)), 1e9))


def _judge(run_dir: Path, patience_s: float) -> Judge:
    def judged(new: Version, old: Version) -> Verdict:
        page = run_dir / FOLDER
        page.mkdir(exist_ok=True)
        for path in page.iterdir():
            path.unlink()
        try:
            from pipelines import judging

            verdict = judging.judge(run_dir, new, old, page, patience_s)
        except Exception as problem:  # the model is registered; whatever the gate stumbles over, say so and go on
            if outages.passes(problem):  # but an outage decides nothing: who records tries again
                raise
            verdict = Verdict(False, f"not champion: the gate failed ({type(problem).__name__}: {problem})")
        registry.attach(new.run_id, sorted(page.iterdir()), FOLDER)
        return verdict

    return judged
