"""Asks an endpoint on this machine whether it serves; the images' health check. Ends with 0 when it does.

EAGERLY_PROBE names the probe port's host:port; 127.0.0.1:9001 without it.
"""

import os
import sys

from eagerly.client import CallError, Client


def main() -> int:
    """Asks grpc.health.v1 for the whole endpoint."""
    try:
        with Client(os.environ.get("EAGERLY_PROBE", "127.0.0.1:9001"), timeout_s=4) as client:
            return 0 if client.healthy() else 1
    except CallError as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
