"""What TLS costs: the same endpoint with every feature on, in the clear and with TLS.

    python -m benchmarks.tls --pairs 9

Two endpoints on one Ray serve the classifier's ConvNet on 28x28 raw images and are loaded in turn, in alternating
order; ghz, a compiled client, calls from the same cores over connections that it has already made when the measuring
begins. The certificate is ECDSA's P-256. Raw results go to benchmarks/results/tls.json.
"""

import argparse
import datetime
import os
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.cpu import Tree
from benchmarks.features import Called, endpoint, watched
from benchmarks.load import Figures, Load, image_request
from benchmarks.serving import LOADS, SIDE, convnet, keep, pairs, report
from services import hosting


def main() -> None:
    """Measures every load and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs per load")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        stored = watched(convnet(Path(scratch) / "model"))
        request = Path(scratch) / "request"
        request.write_bytes(image_request(SIDE))
        clear, locked = Path(scratch) / "clear", Path(scratch) / "locked"
        for folder in (clear, locked):
            folder.mkdir()
        cert, key = certificate(locked)
        tree = Tree(os.getpid())  # the endpoint that is not loaded takes next to nothing

        def measure(called: Called, load: Load) -> Figures:
            return tree.measured(lambda: called.load(request, load, arguments.seconds))

        with (
            hosting.ray_running(),
            endpoint(stored, clear) as first,
            endpoint(stored, locked, tls_cert=cert, tls_key=key) as second,
        ):
            for called in (first, second):
                measure(called, LOADS[1])
            results = [(load, pairs(load, (first, second), measure, arguments.pairs)) for load in LOADS]
    report(results, ("clear", "TLS"))
    keep(results, "tls")


def certificate(folder: Path) -> tuple[Path, Path]:
    """Makes a certificate for `localhost`, which signs itself, and its key; valid for a day."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    cert, key = folder / "server.crt", folder / "server.key"
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, key


if __name__ == "__main__":
    main()
