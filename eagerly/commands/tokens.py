"""`eagerly tokens`: the tokens with which callers open a locked endpoint."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eagerly import flags, steps, usage
from eagerly.usage import Verb

VERBS = {
    "new": Verb(
        "NAME --permissions PERMISSION... [--tokens FILE]",
        "Prints a new token, once, and appends its hash to the file that endpoints read.",
        has_flags=True,
    )
}
HELP = usage.page(
    "eagerly tokens",
    VERBS,
    """new prints a token, once, and appends its SHA-256 with name and permissions to a file, by default `tokens` in the
working folder; `eagerly serve --tokens FILE` reads it. To revoke a token, delete its line: endpoints see it within
seconds.""",
)


@dataclass(frozen=True)
class New:
    """Prints a new token, once, and appends its hash to the file that endpoints read."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """Who will bear it."""
    permissions: tuple[str, ...]
    """What it permits: `*`, `package.Service/*` or `package.Service/Method`."""
    tokens: Path = Path("tokens")
    """File to append to; made if there is none, readable by its owner only."""


def main(words: list[str]) -> int:
    """Runs `eagerly tokens ...`. Raises ValueError for a call that is not as VERBS says."""
    match words:
        case ["new", *rest]:
            _new(flags.parse(New, rest, "eagerly tokens new"))
        case _:
            raise usage.mistake(words, "eagerly tokens", VERBS)
    return 0


def _new(args: New) -> None:
    from services import tokens

    token, line = tokens.issue(args.name, args.permissions)
    try:
        if args.tokens.exists() and (held := args.tokens.read_bytes()):
            tokens.Tokens(f"--tokens {args.tokens}", held)
        descriptor = os.open(args.tokens, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(line.encode())
    except OSError as problem:
        raise ValueError(f"--tokens {args.tokens} cannot be written ({problem.strerror})") from None
    print(token)
    print(f"{args.name}: added to {args.tokens}; the token is shown this once", file=sys.stderr)
    steps.show(f"eagerly serve --tokens {shlex.quote(str(args.tokens))}", file=sys.stderr)
