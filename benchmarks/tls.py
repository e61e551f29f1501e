"""What TLS costs: the same endpoint with every feature on, in the clear and with TLS.

    python -m benchmarks.tls --pairs 9

Two endpoints on one Ray serve the classifier's ConvNet on 28x28 raw images. Both are started three times, and within
each pair they are loaded one after the other, in alternating order; ghz, a compiled client, calls from the same cores
over connections that it has already made when the measuring begins. The certificate is ECDSA's P-256. Raw results go to
benchmarks/results/tls.json.
"""

import argparse
import contextlib
import datetime
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.cpu import Tree
from benchmarks.features import Called, endpoint, watched
from benchmarks.load import Figures, Load, image_request
from benchmarks.serving import LOADS, SIDE, STARTS, Pair, convnet, keep, report, started_anew
from services import hosting


def main() -> None:
    """Measures every load and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs per load, of all starts together")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    parser.add_argument("--starts", type=int, default=STARTS, help="how often both endpoints are started anew")
    arguments = parser.parse_args()
    start = partial(_started, seconds=arguments.seconds)
    results = started_anew(arguments.starts, LOADS, arguments.pairs, start)
    report(results, ("clear", "TLS"))
    keep(results, "tls")


@contextlib.contextmanager
def _started(scratch: Path, seconds: float) -> Iterator[Pair[Called]]:
    """Starts an endpoint in the clear and one with TLS, as started_anew() wants it."""
    stored = watched(convnet(scratch / "model"))
    request = scratch / "request"
    request.write_bytes(image_request(SIDE))
    clear, locked = scratch / "clear", scratch / "locked"
    for folder in (clear, locked):
        folder.mkdir()
    cert, key = certificate(locked)
    tree = Tree(os.getpid())  # the endpoint that is not loaded takes next to nothing

    def measure(called: Called, load: Load) -> Figures:
        return tree.measured(lambda: called.load(request, load, seconds))

    with (
        hosting.ray_running(),
        endpoint(stored, clear) as first,
        endpoint(stored, locked, tls_cert=cert, tls_key=key) as second,
    ):
        for called in (first, second):
            measure(called, LOADS[1])
        yield measure, (first, second)


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
