"""What gRPC itself is told: the port that replicas share, caps on what a connection may ask for, keepalive, and age."""

import os
import resource

from services.options import Options

ENVIRONMENT = {"GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "NONE")}
"""Has gRPC's core write no log unless the environment says so: it has a line for every call with a compression that is
off, as many as callers like. What matters comes as an exception or a status. Holds for a process that is started with
it."""
MOST_STREAMS = 256
"""Calls that one connection may have in flight; a client keeps the next ones until others have ended."""
MOST_METADATA_BYTES = 16 * 1024
"""Headers of one call, as HTTP/2 counts them."""
HANDSHAKE_S = 20
"""Seconds in which a new connection must have said that it speaks HTTP/2."""
KEEPALIVE_S = 60
"""Seconds after which a silent peer is asked whether it is still there."""
ANSWER_S = 20
"""Seconds in which its machine must acknowledge what it is sent, else the connection is closed: TCP_USER_TIMEOUT. No
timer of gRPC's own goes by it: see PONG_S."""
PONG_S = 60
"""Seconds in which the peer itself must answer a ping, else the connection is closed; as long as gRPC's default, as the
answer of a client on a slow line waits behind the request that it is sending."""
AGED_S = 300
"""Seconds that the calls of a connection still have when it has reached its age: a stream that stays open, as of health
or reflection, would keep it for ever."""
PING_INTERVAL_S = 10
"""Seconds between pings of an idle client; one that pings more often is told to calm down and disconnected."""
PING_STRIKES = 2
"""Pings too early that are borne."""


def arguments(options: Options) -> list[tuple[str, int]]:
    """Lists a server's channel arguments.

    max_receive_message_length holds for a message after it is decompressed too: gRPC stops unpacking at the cap.
    """
    given = [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MOST_STREAMS),
        ("grpc.max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", ANSWER_S * 1000),
        ("grpc.http2.ping_timeout_ms", PONG_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_S * 1000),
        ("grpc.http2.max_ping_strikes", PING_STRIKES),
    ]
    if not options.accept_compressed:
        given.append(("grpc.compression_enabled_algorithms_bitset", 1))
    if options.max_connection_age_s:  # gRPC spreads it by a tenth, so that clients do not come back all at once
        given.append(("grpc.max_connection_age_ms", round(options.max_connection_age_s * 1000)))
        given.append(("grpc.max_connection_age_grace_ms", AGED_S * 1000))
    return given


def allow_descriptors() -> None:
    """Raises the process's limit on open files to the most that it may have: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
