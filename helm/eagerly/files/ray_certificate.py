"""Draws a certificate for this Pod's address, signed by the authority that all Pods of a Ray cluster trust."""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY, PLACE = Path("/etc/ray/authority"), Path("/etc/ray/tls")
LIFE_DAYS = 365


def main() -> None:
    """Writes tls.crt, tls.key and ca.crt."""
    authority = x509.load_pem_x509_certificate((AUTHORITY / "ca.crt").read_bytes())
    signing = serialization.load_pem_private_key((AUTHORITY / "ca.key").read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    addresses = {os.environ["POD_IP"], "127.0.0.1"}
    names = [x509.IPAddress(ipaddress.ip_address(one)) for one in sorted(addresses)] + [x509.DNSName("localhost")]
    if os.environ.get("FQ_RAY_IP"):
        names.append(x509.DNSName(os.environ["FQ_RAY_IP"]))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ray")])
    ends = now + datetime.timedelta(days=LIFE_DAYS)
    builder = x509.CertificateBuilder(
        authority.subject, subject, key.public_key(), x509.random_serial_number(), now, ends
    )
    certificate = builder.add_extension(x509.SubjectAlternativeName(names), False).sign(signing, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (PLACE / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (PLACE / "tls.key").write_bytes(key.private_bytes(*form))
    (PLACE / "tls.key").chmod(0o400)
    (PLACE / "ca.crt").write_bytes((AUTHORITY / "ca.crt").read_bytes())


if __name__ == "__main__":
    main()
