"""Search spaces of settings, in words such as `loguniform(1e-4, 1e-1)`; standard library only."""

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipelines.settings import Settings

KINDS = ("uniform", "loguniform", "int", "logint", "choice")
FIXED = ("epochs", "seed")
"""Settings that are no part of a space: --max-epochs says how long a trial may be, and all trials share a seed."""
WAYS = "uniform(0, 1), loguniform(1e-4, 1e-1), int(1, 8), logint(16, 512), choice(32, 64)"


@dataclass(frozen=True)
class Dimension:
    """The values that a setting may take."""

    kind: str
    values: tuple[Any, ...]
    """Lowest and highest, both included; of choice all of them."""

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        return value in self.values if self.kind == "choice" else self.values[0] <= value <= self.values[1]


Space = dict[str, Dimension]


def of(config_module: Any, config: Settings) -> dict[str, str]:
    """Gives a task's own space: SPACE of its config.py; without one, rates around its default."""
    default = {"lr": f"loguniform({config.lr / 10:g}, {config.lr * 10:g})", "weight_decay": "loguniform(1e-5, 1)"}
    return dict(getattr(config_module, "SPACE", default))


def read(path: Path) -> dict[str, str]:
    """Reads a space from a JSON file of settings and words. Raises ValueError when it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ValueError(f"--space {str(path)!r} cannot be read: {problem}") from problem
    if not isinstance(found, dict) or not all(isinstance(words, str) for words in found.values()):
        raise ValueError(f"--space {str(path)!r} must be a JSON object of settings and words such as {WAYS}")
    return found


def given(words: tuple[str, ...]) -> dict[str, str]:
    """Splits what --set was given, NAME=WORDS. Raises ValueError for what is nothing of the kind."""
    pairs = [word.partition("=") for word in words]
    odd = next((word for word, (_, sign, _) in zip(words, pairs, strict=True) if not sign), None)
    if odd is not None:
        raise ValueError(f"--set {odd!r} is not NAME=WORDS, such as lr=loguniform(1e-4,1e-1)")
    return {name.strip().replace("-", "_"): rest.strip() for name, _, rest in pairs}


def parse(words: Mapping[str, str], config: Settings) -> Space:
    """Reads a space for a configuration.

    Raises ValueError for words that are none, a setting that the task lacks or that is no part of a space, and
    values that the configuration refuses.
    """
    known = [field.name for field in fields(config) if field.name not in (*FIXED, *config.PATHS)]
    space = {}
    for name, text in words.items():
        if name not in known:
            raise ValueError(f"the search space names {name!r}, which is no setting to be tuned: {', '.join(known)}")
        space[name] = _dimension(name, text)
        _check(name, space[name], config)
    if not space:
        raise ValueError(f"the search space is empty; name a setting, such as lr={WAYS.split(', int')[0][15:]}")
    return space


def _dimension(name: str, text: str) -> Dimension:
    match = re.fullmatch(r"\s*([a-z]+)\s*\((.*)\)\s*", text, re.DOTALL)
    try:
        if match is None or match[1] not in KINDS:
            raise ValueError(text)
        values = ast.literal_eval(f"({match[2]},)")
    except (ValueError, SyntaxError) as problem:
        raise ValueError(f"{name} is {text!r} in the search space; write one of {WAYS}") from problem
    kind = match[1]
    if kind == "choice":
        return Dimension(kind, values)
    whole = kind in ("int", "logint")
    right = all(isinstance(value, int if whole else int | float) and math.isfinite(value) for value in values)
    if len(values) != 2 or not right or not values[0] < values[1] or (kind.startswith("log") and values[0] <= 0):
        above = " above 0" if kind.startswith("log") else ""
        raise ValueError(f"{name} is {text!r} in the search space; {kind} takes a lower and a higher number{above}")
    return Dimension(kind, values if whole else tuple(float(value) for value in values))


def _check(name: str, dimension: Dimension, config: Settings) -> None:
    """Has the configuration judge the outermost values; a whole number must stay one."""
    now = getattr(config, name)
    for value in dimension.values:
        fits = isinstance(value, type(now)) or (isinstance(now, float) and isinstance(value, int))
        if not fits or (isinstance(now, bool) != isinstance(value, bool)):
            kind = type(now).__name__
            raise ValueError(f"{name} is {value!r} in the search space, and the setting is a {kind} such as {now!r}")
        try:
            replace(config, **{name: value})
        except ValueError as problem:
            raise ValueError(f"the search space holds {name} = {value!r}: {problem}") from problem
