"""Certificates, JWTs and JWKS files for tests, made on the spot."""

import base64
import datetime
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

ISSUER, AUDIENCE = "https://issuer.example", "eagerly"


@dataclass
class Issued:
    """A certificate with its key, both in PEM."""

    cert: bytes
    key: bytes
    private: Any
    certificate: x509.Certificate

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, content in zip(paths, (self.cert, self.key), strict=True):
            path.write_bytes(content)
        return paths


def certificate(
    subject_name: str, signer: Issued | None = None, days: tuple[float, float] = (-1, 1), name: str = "localhost"
) -> Issued:
    """A certificate for a name, valid between two days from now; its own authority unless there is a signer."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject_name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days[0]))
        .not_valid_after(now + datetime.timedelta(days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    )
    made = builder.sign(signer.private if signer else private, hashes.SHA256())
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Issued(made.public_bytes(Encoding.PEM), key, private, made)


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8))


def jwk(private: Any, kid: str) -> dict[str, str]:
    public = private.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "kid": kid, "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        x, y = (encode(value.to_bytes(32)) for value in (point.x, point.y))
        return {"kty": "EC", "kid": kid, "crv": "P-256", "x": x, "y": y}
    return {"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": encode(public.public_bytes_raw())}


def jwks(**privates: Any) -> bytes:
    return json.dumps({"keys": [jwk(private, kid) for kid, private in privates.items()]}).encode()


def claims(**changed: Any) -> dict[str, Any]:
    """Claims that are accepted, but for those that are changed; None takes one out."""
    every = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 600, "scope": "*", **changed}
    return {name: value for name, value in every.items() if value is not None}


def token(private: Any, kid: Any, contents: dict[str, Any], **header: Any) -> str:
    """A JWT; `header` replaces parts of its header, whatever the key."""
    kinds = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    algorithm = next((name for kind, name in kinds.items() if isinstance(private, kind)), "none")
    head: dict[str, Any] = {"alg": algorithm, "typ": "JWT"} | ({"kid": kid} if kid else {}) | header
    signed = ".".join(encode(json.dumps(part).encode()) for part in (head, contents))
    return f"{signed}.{encode(_sign(private, signed.encode()))}"


def _sign(private: Any, signed: bytes) -> bytes:
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(signed)
    if isinstance(private, bytes):
        code = hmac.HMAC(private, hashes.SHA256())
        code.update(signed)
        return code.finalize()
    return b""


def public_pem(private: Any) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
