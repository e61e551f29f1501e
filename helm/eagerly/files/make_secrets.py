"""Makes the Secrets that a release needs and does not have yet, in the cluster, so that no template holds one.

    python make_secrets.py tls tokens tracking database

What exists stays as it is, except a certificate that lacks a name or ends within 30 days. Standard library, and
cryptography for the certificate.
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
from pathlib import Path

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
LIFE_DAYS, RENEW_DAYS = 365, 30


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


def tls(name: str) -> dict[str, bytes]:
    """Draws an authority and a certificate for DNS_NAMES; the authority's key is forgotten."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, ends = _now(), _now() + datetime.timedelta(days=LIFE_DAYS)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} authority")])
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"encipher_only": False, "decipher_only": False}
    certificates = []
    for key, leaf in zip(keys, (False, True), strict=True):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "eagerly")]) if leaf else issuer
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), now, ends)
        signs = x509.KeyUsage(digital_signature=leaf, key_cert_sign=not leaf, crl_sign=not leaf, **usage)
        builder = builder.add_extension(x509.BasicConstraints(not leaf, None), True).add_extension(signs, True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())
        if leaf:
            authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
            server = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
            builder = builder.add_extension(x509.SubjectAlternativeName(_names()), False)
            builder = builder.add_extension(server, False).add_extension(authority, False)
        else:
            builder = builder.add_extension(identifier, False)
        certificates.append(builder.sign(keys[0], hashes.SHA256()))
    authority_pem, leaf_pem = (one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"tls.crt": leaf_pem, "tls.key": keys[1].private_bytes(*form), "ca.crt": authority_pem}


def outdated(held: dict[str, bytes]) -> bool:
    """Says whether a certificate ends soon, or lacks a name that it must have."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(held["tls.crt"])
    named = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    left = certificate.not_valid_after_utc - _now()
    return left < datetime.timedelta(days=RENEW_DAYS) or not named.issuperset(_names())


def main(words: list[str]) -> None:
    """Makes what each word names."""
    prefix, api = os.environ["SECRETS_PREFIX"], Api(os.environ["SECRETS_NAMESPACE"])
    makers = {"tls": tls, "tokens": tokens, "tracking": tracking, "database": database}
    for word in words:
        name = f"{prefix}-{word}"
        held = api.read(name)
        renew = held is not None and word == "tls" and outdated(held)
        if held is None or renew:
            api.write(name, "kubernetes.io/tls" if word == "tls" else "Opaque", makers[word](name), renew)
        print(f"{name}: {'renewed' if renew else 'made' if held is None else 'there already'}", flush=True)


def _names() -> list:
    from cryptography import x509

    return [*map(x509.DNSName, json.loads(os.environ["DNS_NAMES"])), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


if __name__ == "__main__":
    main(sys.argv[1:])
