"""The lines of a job's log: most are for people, and those that begin with MARK say, as JSON, how the job goes on."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

MARK = "@eagerly "


def line(said: Mapping[str, Any]) -> str:
    """Writes a line for programs."""
    return MARK + json.dumps(said)


def read(text: str) -> dict[str, Any]:
    """Gives what a line says to programs; nothing where it is for people, or was cut short."""
    if not text.startswith(MARK):
        return {}
    try:
        return json.loads(text.removeprefix(MARK))
    except ValueError:
        return {}


def latest(lines: Iterable[str]) -> dict[str, Any]:
    """Gives what was said to programs last, each fact as of the last line that has it."""
    said: dict[str, Any] = {}
    for text in lines:
        said |= read(text)
    return said


def for_people(lines: Iterable[str]) -> list[str]:
    """Leaves out what is said to programs."""
    return [text for text in lines if not text.startswith(MARK)]
