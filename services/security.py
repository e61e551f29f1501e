"""Who may call an endpoint: TLS on its port, and bearer tokens or JWTs at its doors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import grpc

from services import errors, tokens
from services.door import Metadata
from services.options import Options
from services.watched import Watched

if TYPE_CHECKING:
    from services.jwt import Jwks

CHECK_S = 1.0
"""How often the files of tokens and keys are looked at, in seconds: what a revoked token has left."""
MOST_VERIFIED = 4096
"""Most tokens that are remembered as verified."""
HINT = "send the metadata `authorization: Bearer TOKEN`"


@dataclass(frozen=True)
class Security:
    """How an endpoint is locked; each part is None where it is open."""

    credentials: grpc.ServerCredentials | None
    guard: "Guard | None"
    certificate_end: Callable[[], float] | None = None
    """Says when the certificate in force ends, as Unix time; reads a file."""


def of(options: Options) -> Security:
    """Reads every file that the options name; raises ValueError naming the flag of one that is not as it must be."""
    credentials = certificate_end = None
    if options.tls_cert is not None and options.tls_key is not None:
        from services import certificates

        credentials, certificate_end = certificates.credentials(options.tls_cert, options.tls_key, options.client_ca)
    guard = Guard(options) if options.tokens is not None or options.jwks is not None else None
    return Security(credentials, guard, certificate_end)


class Guard:
    """Lets in whoever bears a token that permits the call; for the event loop's thread.

    A token is verified once, by its SHA-256 and in constant time, and what bore it is then known as it was sent, until
    the token ends or the files change.
    """

    def __init__(self, options: Options) -> None:
        """Reads the files of tokens and keys."""
        self._tokens: Watched[tokens.Tokens] | None = None
        self._jwks: Watched[Jwks] | None = None
        if options.tokens is not None:
            self._tokens = Watched({"--tokens": options.tokens}, partial(tokens.Tokens, "--tokens"))
        if options.jwks is not None:
            from services import jwt

            parse = partial(jwt.Jwks, "--jwks", options.jwt_issuer, options.jwt_audience)
            self._jwks = Watched({"--jwks": options.jwks}, parse)
        self._known = self._read()
        self._check_at = time.monotonic() + CHECK_S
        self._verified: dict[str | bytes, tokens.Grant] = {}
        self._needed: dict[str, frozenset[str]] = {}

    def __call__(self, path: str, sent: Metadata) -> str:
        """Names the caller of the RPC of this path; raises Unauthenticated or Forbidden if it may not call it."""
        grant = self.authenticate(sent)
        needed = self._needed.get(path)
        if needed is None:
            needed = self._needed[path] = tokens.needed(path)
        if not grant.permits(needed):
            raise errors.Forbidden(f"this token does not permit {path.removeprefix('/')}")
        return grant.name

    def authenticate(self, sent: Metadata) -> tokens.Grant:
        """Finds what the caller may do; raises Unauthenticated for no token or one that is not valid."""
        if time.monotonic() >= self._check_at:
            self._refresh()
        given = sent.get("authorization", "")
        grant = self._verified.get(given)
        if grant is None or time.time() >= grant.until:
            self._verified.pop(given, None)
            grant = self._verify(_bearer(str(given)))
            if len(self._verified) >= MOST_VERIFIED:
                self._verified.clear()
            self._verified[given] = grant
        return grant

    def _verify(self, token: str) -> tokens.Grant:
        known, keys = self._known
        grant = known.find(tokens.digest(token)) if known is not None else None
        if grant is None:
            if keys is None or token.count(".") != 2:
                raise errors.Unauthenticated("the bearer token is not one that this endpoint takes")
            grant = keys.grant(token)
        return grant

    def _refresh(self) -> None:
        self._check_at = time.monotonic() + CHECK_S
        known = self._read()
        if known != self._known:
            self._known = known
            self._verified.clear()

    def _read(self) -> "tuple[tokens.Tokens | None, Jwks | None]":
        listed = None if self._tokens is None else self._tokens.current()
        return listed, None if self._jwks is None else self._jwks.current()


def _bearer(authorization: str) -> str:
    """Reads the token; raises Unauthenticated when there is none."""
    if not authorization:
        raise errors.Unauthenticated(f"this endpoint needs a token; {HINT}")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise errors.Unauthenticated(f"the authorization is no bearer token; {HINT}")
    return token.strip()
