"""How an endpoint is set; standard library only."""

import ipaddress
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MOST_PAYLOAD_BYTES = 65_536
"""The most of a request or reply that the access log takes."""
GREATEST = 2**31 - 1
"""The greatest number that gRPC takes, of bytes or of milliseconds."""


@dataclass(frozen=True)
class Options:
    """Where an endpoint listens and what it takes."""

    host: str = "127.0.0.1"
    """Address of the gRPC port."""
    port: int = 9000
    """gRPC port; 0 takes a free one."""
    metrics_port: int = 9090
    """Port of Prometheus metrics; 0 takes a free one."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics port, apart so that metrics stay private when gRPC is public."""
    probe_port: int | None = None
    """Port that answers health and nothing else, in the clear, for Kubernetes' probes; 0 takes a free one."""
    probe_host: str = "127.0.0.1"
    """Address of the probe port."""
    tls_cert: Path | None = None
    """Certificate chain in PEM with which the gRPC port speaks TLS; read again when it changes."""
    tls_key: Path | None = None
    """Private key in PEM of --tls-cert."""
    client_ca: Path | None = None
    """Certificates in PEM, one of which must have signed the certificate that a client then needs."""
    tokens: Path | None = None
    """File of tokens' hashes and permissions, as `eagerly tokens new` writes it; calls then need a token."""
    jwks: Path | None = None
    """Public keys (JWKS) whose JWTs are taken as tokens."""
    jwt_issuer: str = ""
    """Who must have issued a JWT: its claim iss."""
    jwt_audience: str = ""
    """For whom a JWT must be: its claim aud."""
    reflection: bool = True
    """Describes the services to those who ask on the gRPC port; --no-reflection describes them to nobody."""
    access_log: str = ""
    """File to which each call is written as a line of JSON; `-` for standard error, empty for none."""
    log_payloads: int = 0
    """Most bytes of each request and reply to put into the access log; 0 for none."""
    otlp_endpoint: str = ""
    """URL of an OpenTelemetry collector for traces (OTLP over HTTP), such as http://127.0.0.1:4318; empty for none."""
    trace_ratio: float = 0.01
    """Share of calls that are traced, of those whose callers leave it open."""
    insecure: bool = False
    """Allows a --host that other machines reach without TLS, or without tokens or client certificates."""
    max_message_bytes: int = 4 * 1024 * 1024
    """Largest request."""
    accept_compressed: bool = False
    """Takes compressed requests too; a few bytes can then take milliseconds of other calls' time to unpack."""
    max_items: int = 1024
    """Most items a call."""
    max_batch: int = 64
    """Most items computed together."""
    max_waiting: int = 4096
    """Most items waiting for a model; more are refused."""
    max_held_bytes: int = 256 * 1024 * 1024
    """Most bytes of requests that a replica has at a time, waiting or computed; more are refused."""
    inline: bool = True
    """Computes batches that take a few milliseconds on the event loop; --no-inline leaves all to a thread."""
    threads: int = 1
    """CPU threads a model computes with."""
    paths: Literal["eager", "exact", "fast"] = "exact"
    """Ways to run a model that are tried when it is loaded: none but as it is written (eager), rewrites of it in the
    same precision (exact), bfloat16 too (fast); the fastest with the same answers is taken."""
    tolerance: float = 0.01
    """Most that a score may differ on a path that is not exact, for the path to be taken."""
    notice_s: float = 0.0
    """Seconds for which a stopping endpoint serves as ever, new connections too, but tells probes that it goes."""
    drain_s: float = 20.0
    """Seconds that calls in flight have to end when the endpoint stops."""
    poll_s: float = 1.0
    """Seconds between looks at the registry, whose champion is then served; 0 keeps the models of the start."""
    max_connection_age_s: float = 600.0
    """Seconds after which a client is asked to connect anew, so that connections spread; 0 never asks."""

    abstain_below: float = 0.0
    """Least score of a best label, 0 to 1, below which a reply says that the model abstains; a call may ask another."""
    drift: bool = True
    """Compares what models are asked and say with their validation split; --no-drift does not."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        _check_lock(self)
        if not 0 <= self.abstain_below <= 1:
            raise ValueError(f"--abstain-below is {self.abstain_below}; it must be 0 to 1")
        _check_sight(self)
        if not 0 <= self.tolerance <= 1:
            raise ValueError(f"--tolerance is {self.tolerance}; it must be 0 to 1")
        _check_ports(self)
        for name in ("max_message_bytes", "max_items", "max_batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; the least allowed is 1")
        for name in ("notice_s", "drain_s", "poll_s", "max_connection_age_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be finite, 0 or more")
        for name, most in (("max_message_bytes", GREATEST), ("max_connection_age_s", GREATEST // 1000)):
            if getattr(self, name) > most:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; the most allowed is {most}")
        if self.max_held_bytes < self.max_message_bytes:
            least = f"at least --max-message-bytes, {self.max_message_bytes}"
            raise ValueError(f"--max-held-bytes is {self.max_held_bytes}; it must be {least}")
        if self.max_waiting < self.max_items:
            raise ValueError(f"--max-waiting is {self.max_waiting}; it must be at least --max-items, {self.max_items}")


def _check_ports(options: Options) -> None:
    """Raises ValueError for a port out of range, and for one given twice: the kernel would let both have it."""
    places = {
        "--port": (options.host, options.port),
        "--metrics-port": (options.metrics_host, options.metrics_port),
        "--probe-port": (options.probe_host, options.probe_port or 0),
    }
    for flag, (_, port) in places.items():
        if not 0 <= port <= 65_535:
            raise ValueError(f"{flag} is {port}; it must be 0 to 65535")
    for (first, (host, port)), (second, (other, same)) in itertools.combinations(places.items(), 2):
        if port and port == same and _may_meet(host, other):
            raise ValueError(f"{first} and {second} are both {port}; give each a port of its own")


def _may_meet(host: str, other: str) -> bool:
    """Whether two hosts may have an address in common; a name may be any, and 0.0.0.0 or :: is all."""
    try:
        one, two = ipaddress.ip_address(host), ipaddress.ip_address(other)
    except ValueError:
        return True
    return one == two or one.is_unspecified or two.is_unspecified


def _check_lock(options: Options) -> None:
    """Raises ValueError for flags of security that lack another, and for an open door to other machines."""
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ValueError("--tls-cert and --tls-key need each other; give both or neither")
    if options.client_ca is not None and options.tls_cert is None:
        raise ValueError("--client-ca needs TLS; give --tls-cert and --tls-key too")
    named = (options.jwks is not None, bool(options.jwt_issuer), bool(options.jwt_audience))
    if len(set(named)) > 1:
        raise ValueError("--jwks, --jwt-issuer and --jwt-audience need each other; give all three or none")
    locked = options.tls_cert is not None and (options.client_ca or options.tokens or options.jwks) is not None
    if not (locked or options.insecure or _is_loopback(options.host)):
        lock = "--tls-cert and --tls-key with --tokens, --jwks or --client-ca"
        raise ValueError(
            f"--host {options.host} can be reached from other machines: give {lock}, or --insecure to let anybody in"
        )


def _check_sight(options: Options) -> None:
    """Raises ValueError for what the access log and traces cannot be set to."""
    if not 0 <= options.log_payloads <= MOST_PAYLOAD_BYTES:
        raise ValueError(f"--log-payloads is {options.log_payloads}; it must be 0 to {MOST_PAYLOAD_BYTES} bytes")
    if options.log_payloads and not options.access_log:
        raise ValueError("--log-payloads needs --access-log, the file to put them into")
    if options.otlp_endpoint and not options.otlp_endpoint.startswith(("http://", "https://")):
        raise ValueError(f"--otlp-endpoint is {options.otlp_endpoint!r}; it must be a URL with http:// or https://")
    if not 0 <= options.trace_ratio <= 1:
        raise ValueError(f"--trace-ratio is {options.trace_ratio}; it must be 0 to 1")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
