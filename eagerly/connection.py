"""How a client reaches an endpoint: the shipped service config, TLS, a token."""

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import grpc

MOST_CONNECTIONS = 64
DEADLINE_S = 20.0
"""Seconds that a call may take, retries included, unless its caller says otherwise: a replica that was killed answers
again after 8 s, at the longest 11, on a full machine 19."""
MOST_DEADLINE_S = 1e9
"""gRPC takes some longer ones for none at all."""
RETRY_BYTES = 64 * 1024 * 1024
"""Size of a request up to which gRPC keeps it to make its call again; its own 256 KiB would leave out a single photo.
Nothing is set aside: a call keeps what it sent until it is answered, and endpoints take 4 MiB unless told otherwise."""
KEEPALIVE_S = 30
"""Seconds after which a silent server is asked whether it is still there, as one whose machine was lost never says that
it is not. Ours bear with a ping every 10 s, of idle connections too."""
ANSWER_S = 10
"""Seconds in which its machine must acknowledge what it is sent, else the connection is closed, and its calls fail as
UNAVAILABLE: TCP_USER_TIMEOUT, and nothing else in gRPC 1.85."""
PONG_S = 20
"""Seconds in which the server itself must answer a ping, else the same; gRPC's own would be a minute."""
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tls:
    """What makes the endpoint trusted, and the caller where the endpoint asks for a certificate."""

    ca: Path | None = None
    """PEM file of the authorities that may sign the endpoint's certificate; None asks the system's."""
    cert: Path | None = None
    """PEM file of the caller's own certificate chain."""
    key: Path | None = None
    """PEM file of its key."""
    server_name: str = ""
    """Name that the certificate must bear; empty is the address's own."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises ValueError for one that cannot be read, authorities that are none, or a certificate without its key.
        """
        if (self.cert is None) != (self.key is None):
            raise ValueError("a client certificate and its key need each other; give both or neither")
        authorities = _pem(self.ca)
        if authorities is not None and not re.search(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----", authorities):
            raise ValueError(f"{self.ca} holds no certificate in PEM; name a file of the authorities to trust")
        return grpc.ssl_channel_credentials(authorities, _pem(self.key), _pem(self.cert))


@dataclass(frozen=True)
class Connection:
    """Where an endpoint is and how it is reached."""

    address: str
    tls: Tls | None = None
    token: str = ""
    connections: int = 1
    timeout_s: float = DEADLINE_S
    """Seconds that each call may take."""

    def __post_init__(self) -> None:
        """Raises ValueError for what would not work, or would give a token away."""
        check_deadline("timeout_s", self.timeout_s)
        if not 1 <= self.connections <= MOST_CONNECTIONS:
            raise ValueError(f"connections is {self.connections}; it must be 1 to {MOST_CONNECTIONS}")
        if self.token and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ValueError("the token holds characters that no header can carry; it must be printable ASCII")
        if self.token and self.tls is None and not _is_loopback(self.address):
            raise ValueError(f"a token would travel to {self.address} in the clear; connect with TLS")

    @property
    def metadata(self) -> Metadata:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def options(self) -> Sequence[tuple[str, str | int]]:
        """Arguments of each channel."""
        given: list[tuple[str, str | int]] = [
            ("grpc.service_config", service_config()),
            ("grpc.max_receive_message_length", -1),
            ("grpc.per_rpc_retry_buffer_size", RETRY_BYTES),
            ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
            ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
            ("grpc.keepalive_timeout_ms", ANSWER_S * 1000),
            ("grpc.http2.ping_timeout_ms", PONG_S * 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),  # no limit: an idle connection sends nothing else
        ]
        if self.tls and self.tls.server_name:
            given.append(("grpc.ssl_target_name_override", self.tls.server_name))
        if _is_loopback(self.address):  # else http_proxy would have them, and a token that may not leave this machine
            given.append(("grpc.enable_http_proxy", 0))
        return given

    def channels(self, kind: Any) -> list[Any]:
        """Opens as many channels as there are connections to be; kind is `grpc` or `grpc.aio`."""
        options = self.options
        if self.tls is None:
            return [kind.insecure_channel(self.address, options) for _ in range(self.connections)]
        credentials = self.tls.credentials()
        return [kind.secure_channel(self.address, credentials, options) for _ in range(self.connections)]


def check_deadline(name: str, timeout_s: float) -> None:
    """Raises ValueError, with the name under which it was given, for seconds that no call can be given."""
    if not 0 < timeout_s <= MOST_DEADLINE_S:
        raise ValueError(f"{name} is {timeout_s:g}; it must be more than 0 seconds and at most {MOST_DEADLINE_S:,.0f}")


def service_config() -> str:
    """Reads the service config that clients of any language may use, in gRPC's JSON.

    It retries what a replica that goes away leaves unanswered (at most 5 attempts, gRPC's own limit), fewer when many
    fail; waits for an endpoint that is not there yet; and leaves connections whose health is not SERVING.
    """
    return json.dumps(json.loads(resources.files("eagerly").joinpath("service_config.json").read_text("utf-8")))


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ValueError(f"{path} cannot be read ({problem.strerror}); name a PEM file") from None


def _is_loopback(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
