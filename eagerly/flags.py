"""Reads a verb's flags into a frozen dataclass; what is wrong with them becomes one ValueError."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

Flags = TypeVar("Flags")


def parse(kind: type[Flags], words: Sequence[str], program: str, default: Flags | None = None) -> Flags:
    """Parses words into `kind`; nested dataclasses share one flat set of flags.

    `default` replaces the defaults of the fields; switches can then be turned on and off, whatever they are.
    Raises ValueError with the parser's sentence, and SystemExit(0) once help was shown.
    """
    import tyro

    single = (tyro.conf.FlagCreatePairsOff,) if default is None else ()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, *single)
    given: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(words), prog=program, config=config, **given)
    except SystemExit as end:
        if not end.code:
            raise
    raise ValueError(_sentence(complaint.getvalue(), program))


def _sentence(box: str, program: str) -> str:
    """Takes the message out of what the parser lays out, framed or plain, and its suggestion."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip("│╭╮╰╯─- ").strip()
        if text and not line.startswith("╭"):
            sections[-1].append(line.strip("│ "))
        elif set(line.strip("│ ")) & set("─-"):
            sections.append([])
    sections = [section for section in sections if section]
    if "╭" not in box:
        sections = sections[1:]  # the plain layout puts the frame's title on a line of its own
    message = re.sub(r"^Error parsing (?:\w+: )?", "", " ".join(sections[0])).rstrip(".")
    hints = [line.split()[0] for section in sections[1:] for line in section if line.startswith("--")]
    perhaps = f"; perhaps {hints[0]}" if hints and "Perhaps" in box else ""
    return f"{message[:1].lower()}{message[1:]}{perhaps}; see `{program} --help`"
