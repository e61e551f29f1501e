"""Bearer tokens and what they permit; standard library only.

A tokens file has a line a token: a name, the SHA-256 of the token in hexadecimal, and its permissions, separated by
spaces. It holds no secret that could be sent. `#` begins a comment.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "eagerly_"
"""How every token begins, so that scanners for leaked secrets find them."""
TOKEN_BYTES = 32
NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
PERMISSION = re.compile(r"\*|\w+(?:\.\w+)*/(?:\*|\w+)", re.ASCII)
SHAPES = "`*`, `package.Service/*` or `package.Service/Method`"


@dataclass(frozen=True)
class Grant:
    """What the bearer of a token may call."""

    name: str
    """Who the bearer is: the name in the tokens file, or a JWT's claim sub."""
    permissions: frozenset[str]
    until: float = float("inf")
    """When the token ends, in seconds since the epoch."""

    def permits(self, needed: frozenset[str]) -> bool:
        """Says whether one of the permissions that an RPC can be called with is among these."""
        return not self.permissions.isdisjoint(needed)


class Tokens:
    """The tokens of a file."""

    def __init__(self, flag: str, content: bytes) -> None:
        """Parses a tokens file, which may list nobody; raises ValueError naming the flag and the line that is wrong."""
        self._grants: list[tuple[bytes, Grant]] = []
        if content and not content.endswith(b"\n"):
            raise ValueError(f"{flag}: the last line is not whole: it must end in a newline")
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            words = line.partition("#")[0].split()
            if words:
                self._grants.append(_entry(f"{flag}, line {number}:", words))

    def __len__(self) -> int:
        """Counts the tokens."""
        return len(self._grants)

    def find(self, digest: bytes) -> Grant | None:
        """Compares a token's SHA-256 with every one there is, in a time that does not depend on which is right."""
        found = None
        for known, grant in self._grants:
            if hmac.compare_digest(known, digest):
                found = grant
        return found


def digest(token: str) -> bytes:
    """Computes a token's SHA-256, the only form in which tokens are kept."""
    return hashlib.sha256(token.encode()).digest()


def needed(path: str) -> frozenset[str]:
    """Lists the permissions of which an RPC, by its path on the wire, needs one."""
    name = path.removeprefix("/")
    return frozenset((name, f"{name.partition('/')[0]}/*", "*"))


def issue(name: str, permissions: Iterable[str]) -> tuple[str, str]:
    """Draws a token of 256 random bits; returns it and its line for a tokens file.

    Raises ValueError for a name or a permission that is none.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"the name {name!r} is not allowed; it must be 1 to 64 letters, digits, `.`, `_`, `@` or `-`")
    granted = list(dict.fromkeys(permissions))
    _check(f"--permissions of {name}:", granted)
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return token, " ".join((name, digest(token).hex(), *granted)) + "\n"


def _entry(place: str, words: list[str]) -> tuple[bytes, Grant]:
    name, sealed, *permissions = words if len(words) > 1 else (*words, "")
    if not NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{64}", sealed):
        raise ValueError(f"{place} it must be a name, a SHA-256 of 64 hexadecimal digits, and permissions")
    _check(place, permissions)
    return bytes.fromhex(sealed), Grant(name, frozenset(permissions))


def _check(place: str, permissions: list[str]) -> None:
    if not permissions:
        raise ValueError(f"{place} there is no permission; give {SHAPES}")
    for permission in permissions:
        if not PERMISSION.fullmatch(permission):
            raise ValueError(f"{place} {permission!r} is no permission; it must be {SHAPES}")
