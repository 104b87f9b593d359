"""Sockets that listen on every address of a host."""

import errno
import socket

import trio

# Connections that the kernel queues while the server is busy: a storm of 200 clients must not see a
# refusal.
BACKLOG = 512


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host`; port 0 takes a free one, the same for all.

    The caller closes the sockets. Raises `OSError`.
    """
    found = await trio.socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in dict.fromkeys((entry[0], entry[4][0]) for entry in found):
        try:
            sockets.append(_listen(str(address), port, family))
        except OSError as error:
            # a name may stand for an address this machine has not got
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                _close_all(sockets)
                raise
            missing = error
        else:
            port = sockets[-1].getsockname()[1]
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    return sockets


def _listen(address: str, port: int, family: int) -> socket.socket:
    sock = socket.create_server((address, port), family=family, backlog=BACKLOG)
    sock.setblocking(False)
    return sock


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
