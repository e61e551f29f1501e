"""Where `KEEP=1 make demo` shows MLflow's pages."""

import contextlib
import socket

from eagerly.commands import demo


def test_a_port_that_somebody_has_is_not_shown_as_mlflows() -> None:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 5000)):
        assert demo.pages_port() != 5000
    with socket.create_server(("127.0.0.1", demo.pages_port())):  # which is free
        pass
