"""A port that is free, and that nobody else is likely to take."""

import contextlib
import os
import socket

# Below the ports that kernels give to connections and to servers that ask for any.
PORTS = range(20_000, 30_000)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, the first from this process's number on: tests
    of other processes begin elsewhere.
    """
    for shift in range(len(PORTS)):
        port = PORTS[(os.getpid() + shift) % len(PORTS)]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"no port of {PORTS} is free")
