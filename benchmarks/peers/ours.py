"""Our endpoint as `eagerly serve` runs it, in a process of its own until its standard input closes.

It is tuned for throughput as docs/execution.md advises, as the peers are by their docs: `--paths fast`, unless
PEER_PATHS names other ones.
"""

import json
import os
import sys
from typing import Any

from eagerly.commands.serve import Serve, serving
from services.models import Stored


def main() -> None:
    """Serves the model of PEER_STORED at PEER_PORT with PEER_WORKERS replicas."""
    stored = Stored(**json.loads(os.environ["PEER_STORED"]))
    paths: Any = os.environ.get("PEER_PATHS", "fast")
    replicas = int(os.environ["PEER_WORKERS"])
    options = Serve(port=int(os.environ["PEER_PORT"]), metrics_port=0, threads=1, replicas=replicas, paths=paths)
    with serving(options, [stored]):
        sys.stdin.read()


if __name__ == "__main__":
    main()
