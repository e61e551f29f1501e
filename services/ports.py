"""Finds out which ports are free before a server takes them."""

import errno
import functools
import itertools
import random
import socket
from collections.abc import Iterator
from typing import Any

HIGHEST = 65_535
FREE = range(20_000, 32_768)
"""Where free ports are sought: below those that Linux gives to outgoing connections, which could take one between its
being found and its being bound."""
LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""How a bind fails to an address that is not this machine's, as ::1 where there is no IPv6."""


def find(host: str, port: int, flag: str) -> int:
    """Finds out by a plain bind whether a port is free; a shared one would be taken beside a stranger silently.

    Returns the port, or for 0 a free one that this process has not been given before. Raises ValueError, naming the
    flag, when it is in use or cannot be bound.
    """
    if not 0 <= port <= HIGHEST:
        raise ValueError(f"{flag} is {port}; it must be 0 to {HIGHEST}")
    try:
        if port:
            _bind(host, port)
            return port
        _bind(host, 0)  # raises for an address that is not this machine's
        return next(one for one in itertools.islice(_candidates(), len(FREE)) if _is_free(host, one))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{flag} {port} of {host} cannot be bound ({reason}); choose another with {flag}") from None


def narrow() -> None:
    """Puts the port that Serve opens for handles once this replica is made on loopback, where its node is.

    Serve (2.60) names all interfaces, wherever the node is, and unpickles what callers with Ray's token send.
    """
    import ray
    from ray.serve._private import replica

    opening: Any = replica
    add = getattr(opening, "add_port_to_grpc_server", None)
    here = ray.util.get_node_ip_address()
    if add is not None and here in ("127.0.0.1", "::1"):
        place = f"[{here}]:0" if ":" in here else f"{here}:0"
        opening.add_port_to_grpc_server = lambda server, everywhere: add(server, place)


@functools.cache
def _candidates() -> Iterator[int]:
    return itertools.cycle(random.sample(FREE, len(FREE)))


def _is_free(host: str, port: int) -> bool:
    try:
        _bind(host, port)
    except OSError:
        return False
    return True


def _bind(host: str, port: int) -> None:
    """Binds each address of a host, as gRPC does, and lets go of it; one that this machine lacks needs another."""
    lacking: list[OSError] = []
    found = set(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            if error.errno not in LACKING:
                raise
            lacking.append(error)
    if len(lacking) == len(found):
        raise lacking[0]
