"""What a verb that has verbs of its own says of them, each from one list: its help, theirs, and what is not one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HELP = ("--help", "-h")


@dataclass(frozen=True)
class Verb:
    """A verb below a verb."""

    takes: str
    """What follows it, such as `TASK [VERSION]`."""
    does: str
    """A sentence that says what it does."""
    has_flags: bool = False
    """Whether its flags make its help, and show it themselves."""


def page(program: str, verbs: Mapping[str, Verb], more: str) -> str:
    """Writes the help of a verb: how each of its verbs is called, and what is to be said of them together."""
    usages = [_call(program, name, verb) for name, verb in verbs.items()]
    return "\n".join(["usage: " + "\n       ".join(usages), "", more])


def asked(words: Sequence[str], program: str, verbs: Mapping[str, Verb], whole: str) -> str | None:
    """Gives the help that the words ask for: `whole`, or that of the verb they begin with; None where they do not."""
    place = next((number for number, word in enumerate(words) if word in HELP), None)
    if place == 0:
        return whole
    verb = None if place is None else verbs.get(words[0])
    if verb is None or verb.has_flags:
        return None
    return f"usage: {_call(program, words[0], verb)}\n\n{verb.does}"


def mistake(words: Sequence[str], program: str, verbs: Mapping[str, Verb]) -> ValueError:
    """Says that words are not understood, and what would be."""
    first, *others = [f"{name} {verb.takes}".strip() for name, verb in verbs.items()]
    known = ", ".join(f"`{one}`" for one in (f"{program} {first}", *others))
    return ValueError(f"`{' '.join([program, *words])}` is not understood; it is {known}")


def _call(program: str, name: str, verb: Verb) -> str:
    return f"{program} {name} {verb.takes}".strip()
