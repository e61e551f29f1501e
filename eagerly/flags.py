"""Reads a verb's flags into a frozen dataclass; what is wrong with them becomes one ValueError."""

import contextlib
import io
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union

Flags = TypeVar("Flags")
FLAG = re.compile(r"--?[A-Za-z]")
"""How a flag begins, and no value does that is not joined to its flag by `=`."""


def parse(
    kind: type[Flags],
    words: Sequence[str],
    program: str,
    default: Flags | None = None,
    earlier: Sequence[str] = (),
) -> Flags:
    """Parses words into `kind`; nested dataclasses share one flat set of flags.

    `default` replaces the defaults of the fields; switches can then be turned on and off, whatever they are. A flag
    of `words` takes the place of the same one in `earlier`; given twice in `words` it has all values of both, if it
    takes several, else the last.
    Raises ValueError with the parser's sentence, and SystemExit(0) once help was shown.
    """
    import tyro

    single = (tyro.conf.FlagCreatePairsOff,) if default is None else ()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, *single)
    given: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=[*earlier, *_joined(kind, words)], prog=program, config=config, **given)
    except SystemExit as end:
        if not end.code:
            raise
    raise ValueError(_sentence(complaint.getvalue(), program))


def _joined(kind: type[Any], words: Sequence[str]) -> list[str]:
    """Puts the values of a flag that is given again behind its first ones: the parser keeps the last ones alone."""
    several, first = dict(_several(kind)), dict[str, list[str]]()
    parts: list[list[str]] = [[]]
    part = parts[0]
    end = words.index("--") if "--" in words else len(words)
    for word in words[:end]:
        name, equals, value = word.partition("=")
        field = several.get(name.replace("_", "-"), "")
        if field in first:
            part = first[field]
            part += [value] if equals else []
        elif FLAG.match(word):
            parts.append(part := [word])
            first |= {field: part} if field else {}
        else:
            part.append(word)
    return [*(word for part in parts for word in part), *words[end:]]


def _several(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Gives the flags that take any number of values, aliases too, each with its field's name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in (field.name for field in fields(kind)):
        if is_dataclass(hints[name]):
            yield from _several(hints[name])
        elif _is_several(hints[name]):
            aliases = [getattr(part, "aliases", None) or () for part in getattr(hints[name], "__metadata__", ())]
            yield from ((flag.replace("_", "-"), name) for flag in (f"--{name}", *sum(aliases, ())))


def _is_several(hint: Any) -> bool:
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated or kind is Union or kind is UnionType:
        return any(_is_several(part) for part in parts)
    return kind is list or (kind is tuple and Ellipsis in parts)


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
