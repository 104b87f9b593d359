"""Address that a server is to listen on: whether it can be had, and what to do where it cannot."""

import errno
import os
import socket

from semantic_trio.adapters.http.sockets.binding import bind
from semantic_trio.domain.errors import AddressError

REMEDIES = {
    errno.EADDRINUSE: (
        "choose another port with --port, or stop the program that has it (lsof -i :{port})"
    ),
    errno.EADDRNOTAVAIL: "name an address of this machine with --host",
    errno.EACCES: "ports below 1024 need more rights: choose another with --port",
}
OTHERWISE = "choose another address with --host and --port"


async def check_address(host: str, port: int) -> None:
    """Raises `AddressError` for an address that cannot be listened on now: before a model is
    loaded, not after.
    """
    try:
        for sock in await bind(host, port):
            sock.close()
    except (socket.gaierror, UnicodeError) as error:
        raise AddressError(host, port, "no such name", REMEDIES[errno.EADDRNOTAVAIL]) from error
    except OSError as error:
        number = error.errno or 0
        # Python's own text repeats the address
        reason = os.strerror(number) if number else str(error)
        raise AddressError(
            host, port, reason, REMEDIES.get(number, OTHERWISE).format(port=port)
        ) from error
