"""`eagerly tokens`: the tokens with which callers open a locked endpoint."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from eagerly import flags

USAGE = "`eagerly tokens new NAME --permissions ...`"
HELP = """usage: eagerly tokens new NAME --permissions PERMISSION... [--tokens FILE]

new prints a token, once, and appends its SHA-256 with name and permissions to a file, by default `tokens` in the
working folder; `eagerly serve --tokens FILE` reads it. To revoke a token, delete its line: endpoints see it within
seconds."""


@dataclass(frozen=True)
class New:
    """Prints a new token, once, and appends its hash to the file that endpoints read."""

    name: tyro.conf.Positional[str]
    """Who will bear it."""
    permissions: tuple[str, ...]
    """What it permits: `*`, `package.Service/*` or `package.Service/Method`."""
    tokens: Path = Path("tokens")
    """File to append to; made if there is none, readable by its owner only."""


def main(words: list[str]) -> int:
    """Runs `eagerly tokens ...`. Raises ValueError for a call that is not as USAGE says."""
    match words:
        case ["--help" | "-h"]:
            print(HELP)
        case ["new", *rest]:
            _new(flags.parse(New, rest, "eagerly tokens new"))
        case _:
            raise ValueError(f"`eagerly tokens {' '.join(words)}` is not understood; it is {USAGE}")
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
