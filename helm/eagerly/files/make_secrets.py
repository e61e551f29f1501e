"""Makes the Secrets that a release needs and does not have yet, in the cluster, so that no template holds one.

    python make_secrets.py tls tokens tracking database

What exists stays as it is, except a certificate that lacks a name or ends within 30 days: its authority, which lives
for ten years, signs another. Standard library, and cryptography for the certificate.
"""

import base64
import datetime
import hashlib
import ipaddress
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as Key
    from cryptography.x509 import Certificate, Name

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
LIFE, RENEW, NONE = datetime.timedelta(days=365), datetime.timedelta(days=30), datetime.timedelta()
"""How long a certificate lives, and how long before its end another takes its place."""
CLOCKS = datetime.timedelta(minutes=5)
"""How far a client's clock may be behind, for a certificate to be good at once."""
AUTHORITY_LIFE = datetime.timedelta(days=3652)
"""How long an authority lives; once its certificates could outlive it, another takes its place."""


class Api:
    """The Secrets of one namespace, with the right of the Pod's service account."""

    def __init__(self, namespace: str) -> None:
        """Reads where the API is and who asks."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        place = f"[{host}]" if ":" in host else host
        self._url = f"https://{place}:{port}/api/v1/namespaces/{namespace}/secrets"
        self._trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        self._token = (ACCOUNT / "token").read_text().strip()

    def read(self, name: str) -> dict[str, bytes] | None:
        """Reads a Secret; None when there is none."""
        try:
            found = self._call("GET", f"/{name}")
        except urllib.error.HTTPError as problem:
            if problem.code == 404:
                return None
            raise
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}

    def write(self, name: str, kind: str, data: dict[str, bytes], replace: bool) -> None:
        """Makes a Secret, or replaces it; one that somebody else made meanwhile stays."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "eagerly-secrets-hook"}},
            "type": kind,
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        try:
            self._call("PUT" if replace else "POST", f"/{name}" if replace else "", body)
        except urllib.error.HTTPError as problem:
            if problem.code != 409 or replace:
                raise

    def _call(self, method: str, path: str, body: dict[str, object] | None = None) -> dict[str, dict[str, str]]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self._trust) as reply:
            return json.load(reply)


def tokens(name: str) -> dict[str, bytes]:
    """Draws one token, as `eagerly tokens new` does: its hash for the endpoints, itself for a client."""
    token = "eagerly_" + secrets.token_urlsafe(32)
    return {"tokens": f"client {hashlib.sha256(token.encode()).hexdigest()} *\n".encode(), "client": token.encode()}


def tracking(name: str) -> dict[str, bytes]:
    """Draws MLflow's administrator, and the key of its sessions."""
    password, key = secrets.token_urlsafe(24), secrets.token_urlsafe(32)
    return {"username": b"eagerly", "password": password.encode(), "flask-key": key.encode()}


def database(name: str) -> dict[str, bytes]:
    """Draws the password of Postgres, and writes its address."""
    password = secrets.token_urlsafe(24)
    uri = f"postgresql+psycopg://mlflow:{password}@{name}:5432/mlflow"
    return {"password": password.encode(), "uri": uri.encode()}


def tls(name: str, held: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """Gives a certificate for DNS_NAMES and its authority: what is held as long as it lasts, the rest drawn anew.

    A new authority joins those that are trusted already. The one before signs it, which the certificate brings along:
    so who trusts only that one trusts the certificate too. One whose key was forgotten, by an older release, cannot
    sign; its certificate stays until it must be renewed, so that clients have until then to take the new ca.crt.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    held = held or {}
    chain, trusted = (_certificates(held.get(key, b"")) for key in ("tls.crt", "ca.crt"))
    is_old = not chain or outdated(chain)
    if not (is_old or trusted):
        return held  # somebody else's, signed by an authority that is not known here
    key = serialization.load_pem_private_key(held["ca.key"], None) if "ca.key" in held else None
    own = next((one for one in trusted if key is not None and one.public_key() == key.public_key()), None)
    bridges = [one for one in chain[1:] if own and one.public_key() == own.public_key() and _left(one) >= RENEW]
    if own is None or _left(own) < LIFE + RENEW:
        is_old = is_old or own is not None
        own, key, bridges = _succeed(name, own, key)
        trusted = [own, *trusted]
    made = {**held, "ca.crt": _pem(one for one in trusted if _left(one) > NONE), "ca.key": _secret(key)}
    if is_old:
        mine = ec.generate_private_key(ec.SECP256R1())
        leaf = _sign(_named("eagerly"), mine, _now() + LIFE, own.subject, key, _names())
        made |= {"tls.crt": _pem([leaf, *bridges]), "tls.key": _secret(mine)}
    return made


def _succeed(
    name: str, before: "Certificate | None", signing: "Key | None"
) -> "tuple[Certificate, Key, list[Certificate]]":
    """Draws an authority; also as the one before signs it, where there is one that lasts a while."""
    from cryptography.hazmat.primitives.asymmetric import ec

    subject, key = _named(f"{name} authority {secrets.token_hex(4)}"), ec.generate_private_key(ec.SECP256R1())
    own = _sign(subject, key, _now() + AUTHORITY_LIFE, subject, key)
    if before is None or _left(before) < RENEW:
        return own, key, []
    return own, key, [_sign(subject, key, before.not_valid_after_utc, before.subject, signing)]


def outdated(chain: "list[Certificate]") -> bool:
    """Says whether a certificate, or one that it brings along, ends soon, or it lacks a name that it must have."""
    from cryptography import x509

    named = set(chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    return min(map(_left, chain)) < RENEW or not named.issuperset(_names())


def main(words: list[str]) -> None:
    """Makes what each word names."""
    prefix, api = os.environ["SECRETS_PREFIX"], Api(os.environ["SECRETS_NAMESPACE"])
    makers = {"tls": tls, "tokens": tokens, "tracking": tracking, "database": database}
    for word in words:
        name = f"{prefix}-{word}"
        held = api.read(name)
        made = makers[word](name) if held is None else tls(name, held) if word == "tls" else held
        if made != held:
            api.write(name, "kubernetes.io/tls" if word == "tls" else "Opaque", made, held is not None)
        print(f"{name}: {'made' if held is None else 'there already' if made == held else 'renewed'}", flush=True)


def _names() -> list:
    from cryptography import x509

    return [*map(x509.DNSName, json.loads(os.environ["DNS_NAMES"])), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


def _sign(
    subject: "Name", key: "Key", ends: datetime.datetime, issuer: "Name", signing: "Key", names: list | None = None
) -> "Certificate":
    """Makes the certificate of a server with these names; of an authority when there are none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    is_leaf = names is not None
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"encipher_only": False, "decipher_only": False}
    signs = x509.KeyUsage(digital_signature=is_leaf, key_cert_sign=not is_leaf, crl_sign=not is_leaf, **usage)
    public, begins = key.public_key(), _now() - CLOCKS
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), begins, ends)
    builder = builder.add_extension(x509.BasicConstraints(not is_leaf, None), True).add_extension(signs, True)
    if names is not None:
        server = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False).add_extension(server, False)
    else:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    if issuer != subject:
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
        builder = builder.add_extension(signer, False)
    return builder.sign(signing, hashes.SHA256())


def _named(common_name: str) -> "Name":
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _certificates(pem: bytes) -> "list[Certificate]":
    from cryptography import x509

    return x509.load_pem_x509_certificates(pem) if pem else []


def _pem(certificates: "Iterable[Certificate]") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def _secret(key: "Key") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _left(certificate: "Certificate") -> datetime.timedelta:
    return certificate.not_valid_after_utc - _now()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


if __name__ == "__main__":
    main(sys.argv[1:])
