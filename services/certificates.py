"""TLS on the gRPC port, with certificates that are replaced while connections live."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.watched import Watched

CERT, KEY, CLIENT_CA = "--tls-cert", "--tls-key", "--client-ca"


def credentials(cert: Path, key: Path, client_ca: Path | None) -> tuple[grpc.ServerCredentials, Callable[[], float]]:
    """Builds credentials that new handshakes find renewed as soon as the files are; old connections live on.

    Returns beside them what tells the end of the certificate in force, as Unix time, after a look at the files.

    client_ca: who must have signed the certificates of clients; without one, clients need none.
    Raises ValueError naming the flag of a file that is missing, malformed, expired, or does not fit the others.
    """
    files = {CERT: cert, KEY: key}
    if client_ca is not None:
        files[CLIENT_CA] = client_ca
    watched = Watched(files, _configuration)
    given = watched.current()

    def fetch() -> Any:
        """Answers gRPC before each handshake: the new configuration, or None if it has not changed."""
        nonlocal given
        before, given = given, watched.current()
        return None if given is before else given[0]

    needs_client = client_ca is not None
    made = grpc.dynamic_ssl_server_credentials(given[0], fetch, require_client_authentication=needs_client)
    return made, lambda: watched.current()[1]


def _configuration(chain: bytes, key: bytes, roots: bytes | None = None) -> tuple[Any, float]:
    """Checks the files against each other, so that only what works is handed to gRPC; says when the chain ends."""
    certificates = _certificates(CERT, chain)
    certificate, ends = certificates[0], min(one.not_valid_after_utc for one in certificates)
    if roots is not None:
        _certificates(CLIENT_CA, roots)
    _check_dates(CERT, certificate)
    try:
        private: Any = load_pem_private_key(key, None)
    except TypeError:
        raise ValueError(f"{KEY} is encrypted; it must be a PEM key without a password") from None
    except Exception:  # the library has many words for it
        raise ValueError(f"{KEY} is no private key in PEM") from None
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError(f"{KEY} is neither an RSA nor an elliptic-curve key, the kinds that gRPC takes")
    if _bytes(private.public_key()) != _bytes(certificate.public_key()):
        raise ValueError(f"{KEY} does not belong to the first certificate of {CERT}")
    return grpc.ssl_server_certificate_configuration([(key, chain)], roots), ends.timestamp()


def _certificates(flag: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ValueError(f"{flag} holds no certificate in PEM, or a malformed one") from None


def _check_dates(flag: str, certificate: x509.Certificate) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= datetime.datetime.now(datetime.UTC) <= ends:
        raise ValueError(
            f"{flag} holds a certificate that is valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC"
        )


def _bytes(public: Any) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
