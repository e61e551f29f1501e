"""JSON Web Tokens, signed by the keys of a JWKS file (RFC 7515, 7517, 7519, with the advice of RFC 8725).

The key decides the algorithm, never the token: RSA means RS256, P-256 means ES256, Ed25519 means EdDSA. So a token
that says `none`, or HS256 with a public key as the secret, has no key to be verified with.
"""

import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256

from services import errors, tokens

LEEWAY_S = 30
"""How far the clocks of issuer and endpoint may be apart, in seconds."""
LEAST_RSA_BITS = 2048
_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_INVALID = "the JWT is not one that this endpoint takes: no key of its JWKS has signed it"
_SECRET_FIELDS = {"d", "k", "p", "q"}

Verify = Callable[[bytes, bytes], None]
"""(signature, what was signed); raises InvalidSignature or ValueError."""


@dataclass(frozen=True)
class Key:
    """A public key and the one algorithm that it is used with."""

    kid: str | None
    algorithms: frozenset[str]
    verify: Verify


class Jwks:
    """The keys of a JWKS file, and who must have issued a token to whom."""

    def __init__(self, flag: str, issuer: str, audience: str, content: bytes) -> None:
        """Parses a JWKS file; raises ValueError naming the flag and the key that is wrong."""
        self._issuer = issuer
        self._audience = audience
        try:
            listed = json.loads(content)["keys"]
            self._keys = [key for entry in listed if (key := _key(flag, entry)) is not None]
        except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError):
            raise ValueError(f'{flag} is no JWKS; it must be JSON such as {{"keys": [...]}}') from None
        if not self._keys:
            raise ValueError(f"{flag} holds no key to verify with; it must hold RSA, P-256 or Ed25519 public keys")
        names = [key.kid for key in self._keys]
        if len(names) != len(set(names)):
            raise ValueError(f"{flag} holds two keys with the same kid, or two without")

    def grant(self, token: str) -> tokens.Grant:
        """Verifies a token and reads what it permits; raises Unauthenticated saying what is wrong, never the token."""
        if not _SHAPE.fullmatch(token):
            raise errors.Unauthenticated(_INVALID)
        head, body, signature = token.split(".")
        try:
            self._find(_object(head)).verify(_decode(signature), f"{head}.{body}".encode())
        except (InvalidSignature, ValueError, RecursionError):
            raise errors.Unauthenticated(_INVALID) from None
        try:
            claims = _object(body)
        except (ValueError, RecursionError):
            raise errors.Unauthenticated("the JWT's claims are no JSON object") from None
        return tokens.Grant(str(claims.get("sub", "")), _permissions(claims), self._check(claims))

    def _find(self, header: dict[str, Any]) -> Key:
        """Finds the key that a token names, or the only one where it names none; raises ValueError."""
        if "crit" in header:
            raise ValueError
        algorithm, kid = str(header.get("alg")), header.get("kid")
        fitting = [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]
        if len(fitting) != 1:
            raise ValueError
        return fitting[0]

    def _check(self, claims: dict[str, Any]) -> float:
        """Checks who issued a token, for whom and for when; returns when it ends."""
        now = time.time()
        ends, begins = _seconds(claims, "exp"), _seconds(claims, "nbf")
        audiences = claims.get("aud")
        if ends is None:
            raise errors.Unauthenticated("the JWT has no exp claim, so that it would never end")
        if now >= ends + LEEWAY_S:
            raise errors.Unauthenticated("the JWT has expired")
        if begins is not None and now < begins - LEEWAY_S:
            raise errors.Unauthenticated("the JWT is not valid yet")
        if claims.get("iss") != self._issuer:
            raise errors.Unauthenticated("the JWT is from another issuer")
        if self._audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise errors.Unauthenticated("the JWT is for another audience")
        return ends + LEEWAY_S


def _key(flag: str, entry: dict[str, Any]) -> Key | None:
    """Reads a key; None for one of a kind that tokens are not verified with here."""
    kid, kind = entry.get("kid"), entry["kty"]
    if kind == "oct" or _SECRET_FIELDS & entry.keys():
        raise ValueError(f"{flag} holds a secret key (kid {kid!r}); it must hold public keys only")
    if entry.get("use", "sig") != "sig" or not isinstance(kid, str | None):
        return None
    try:
        found = _verifier(kind, entry)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{flag} holds a malformed key (kid {kid!r})") from None
    if found is None:
        return None
    algorithms, verify = found
    if kind == "RSA" and _number(entry["n"]).bit_length() < LEAST_RSA_BITS:
        raise ValueError(f"{flag} holds an RSA key (kid {kid!r}) of fewer than {LEAST_RSA_BITS} bits")
    return Key(kid, algorithms, verify) if entry.get("alg", "") in ("", *algorithms) else None


def _verifier(kind: str, entry: dict[str, Any]) -> tuple[frozenset[str], Verify] | None:
    if kind == "RSA":
        return frozenset(("RS256",)), _rs256(rsa.RSAPublicNumbers(_number(entry["e"]), _number(entry["n"])))
    if kind == "EC" and entry["crv"] == "P-256":
        point = ec.EllipticCurvePublicNumbers(_number(entry["x"]), _number(entry["y"]), ec.SECP256R1())
        return frozenset(("ES256",)), _es256(point.public_key())
    if kind == "OKP" and entry["crv"] == "Ed25519":
        public = ed25519.Ed25519PublicKey.from_public_bytes(_decode(entry["x"]))
        return frozenset(("EdDSA", "Ed25519")), public.verify
    return None


def _rs256(numbers: rsa.RSAPublicNumbers) -> Verify:
    public = numbers.public_key()
    return lambda signature, signed: public.verify(signature, signed, padding.PKCS1v15(), SHA256())


def _es256(public: ec.EllipticCurvePublicKey) -> Verify:
    def verify(signature: bytes, signed: bytes) -> None:
        if len(signature) != 64:
            raise InvalidSignature
        r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
        public.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))

    return verify


def _permissions(claims: dict[str, Any]) -> frozenset[str]:
    """Unites the claims `scope`, words in a string, and `permissions`, a list of strings."""
    scope, listed = claims.get("scope"), claims.get("permissions")
    words = scope.split() if isinstance(scope, str) else []
    if isinstance(listed, list):
        words += [word for word in listed if isinstance(word, str)]
    return frozenset(words)


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    """Reads a time; NaN and infinity, which Python's JSON knows, would never end."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**53) < value < 2**53:
        raise errors.Unauthenticated(f"the JWT's claim {name} is no time")
    return float(value)


def _object(text: str) -> dict[str, Any]:
    found = json.loads(_decode(text))
    if not isinstance(found, dict):
        raise ValueError
    return found


def _number(text: str) -> int:
    return int.from_bytes(_decode(text))


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
