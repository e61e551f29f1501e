"""Search spaces of settings, in words such as `loguniform(1e-4, 1e-1)`; standard library only."""

import ast
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipelines.settings import Settings

KINDS = ("uniform", "loguniform", "int", "logint", "choice")
FIXED = ("epochs", "seed")
"""Settings that are no part of a space: --max-epochs says how long a trial may be, and all trials share a seed."""
MOST = 2**53
"""Largest whole number that a range may reach, beyond which floats skip some."""
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
    space, hints = {}, typing.get_type_hints(type(config))
    for name, text in words.items():
        if name not in known:
            raise ValueError(f"the search space names {name!r}, which is no setting to be tuned: {', '.join(known)}")
        space[name] = _dimension(name, text)
        _check(name, space[name], config, hints[name])
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
    right = all(isinstance(value, int if whole else int | float) and _is_number(value) for value in values)
    if len(values) != 2 or not right or not values[0] < values[1] or (kind.startswith("log") and values[0] <= 0):
        above = (" above 0" if kind.startswith("log") else "") + (", at most 2**53" if whole else "")
        raise ValueError(f"{name} is {text!r} in the search space; {kind} takes a lower and a higher number{above}")
    return Dimension(kind, values if whole else tuple(float(value) for value in values))


def _is_number(value: float) -> bool:
    return abs(value) <= MOST if isinstance(value, int) else math.isfinite(value)


def _check(name: str, dimension: Dimension, config: Settings, hint: Any) -> None:
    """Has the setting's type and the configuration judge the outermost values; a whole number must stay one."""
    for value in dimension.values:
        if not _fits(value, hint, dimension.kind == "choice"):
            now = getattr(config, name)
            raise ValueError(f"{name} is {value!r} in the search space; the setting is {_words(hint)}, such as {now!r}")
        try:
            replace(config, **{name: value})
        except ValueError as problem:
            raise ValueError(f"the search space holds {name} = {value!r}: {problem}") from problem


def _fits(value: Any, hint: Any, alone: bool) -> bool:
    """Whether a value is of a type; words that a Literal lists fit alone, not as the ends of a range."""
    kind = typing.get_origin(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, part, alone) for part in typing.get_args(hint))
    if kind is typing.Literal:
        return alone and any(type(value) is type(word) and value == word for word in typing.get_args(hint))
    if hint in (int, float):
        return type(value) in (int, hint) and _is_number(value)
    return hint is Any or isinstance(value, kind or hint)


def _words(hint: Any) -> str:
    """Says which values are of a type."""
    kind = typing.get_origin(hint)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in typing.get_args(hint))
    if kind is typing.Literal:
        return " or ".join(repr(word) for word in typing.get_args(hint))
    said = {int: "a whole number", float: "a finite number", str: "a word", bool: "True or False"}
    return said.get(hint, getattr(hint, "__name__", str(hint)))
