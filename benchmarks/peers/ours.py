"""Our endpoint as `eagerly serve` runs it, in a process of its own until its standard input closes."""

import json
import os
import sys

from eagerly.commands.serve import Serve, serving
from services.models import Stored


def main() -> None:
    """Serves the model of PEER_STORED at PEER_PORT with PEER_WORKERS replicas."""
    stored = Stored(**json.loads(os.environ["PEER_STORED"]))
    options = Serve(
        port=int(os.environ["PEER_PORT"]), metrics_port=0, threads=1, replicas=int(os.environ["PEER_WORKERS"])
    )
    with serving(options, [stored]):
        sys.stdin.read()


if __name__ == "__main__":
    main()
