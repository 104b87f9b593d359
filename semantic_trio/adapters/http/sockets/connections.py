"""Connections of one server: their limit, and which of them is closed for a new one.

Knows which connections wait for their clients, and for how long. Knows nothing of HTTP.
"""

import errno
import resource
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
import structlog
import trio

log = structlog.get_logger(__name__)

# Connections at the same time, where the limit on descriptors allows: each stream of an agent is
# one.
MOST_CONNECTIONS = 1_024
# Divisor of the descriptor limit: connections may take half, files, models and the database need
# the rest.
SHARE_OF_DESCRIPTORS = 2
# Temporary errors of `accept`: this process or this machine has no descriptor or memory left.
PASSING_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Seconds before `accept` is tried again after such an error, and between two log lines about the
# same trouble.
RETRY_SECONDS, LOG_SECONDS = 0.1, 60.0

Serve = Callable[[trio.SocketStream], Awaitable[None]]
Accept = Callable[[], Awaitable[trio.SocketStream]]


class Connection(Protocol):
    """A connection that can be counted and dropped."""

    @property
    def waiting_since(self) -> float | None:
        """Time since which the connection waits for a request of its client, or for the rest of
        one; None while a request is being answered.
        """

    def drop(self) -> None:
        """Close the connection at once."""


def most_connections() -> int:
    """Return the number of connections that the descriptor limit of this process allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MOST_CONNECTIONS
        if soft == resource.RLIM_INFINITY
        else max(1, min(MOST_CONNECTIONS, soft // SHARE_OF_DESCRIPTORS))
    )


@attrs.define(eq=False)
class Connections:
    """All connections of a server, and the loop that accepts new ones."""

    limit: int
    _all: set[Connection] = attrs.field(init=False, factory=set)
    # including connections that are not in `_all` yet
    _accepted: int = attrs.field(init=False, default=0)
    _ended: trio.Event = attrs.field(init=False, factory=trio.Event)
    _logged_at: float | None = attrs.field(init=False, default=None)

    async def accept(
        self, listener: trio.SocketListener, serve: Serve, nursery: trio.Nursery
    ) -> None:
        """Serve each new connection in a task of the nursery, within the limit.

        Runs until cancelled; closes the listener.
        """
        async with listener:
            while True:
                await self._room()
                stream = await self._next(listener.accept)
                self._accepted += 1
                nursery.start_soon(self._serve, serve, stream)

    def add(self, connection: Connection) -> None:
        """Count a connection among those that may be dropped for a new one."""
        self._all.add(connection)

    def discard(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._all.discard(connection)

    async def _serve(self, serve: Serve, stream: trio.SocketStream) -> None:
        try:
            await serve(stream)
        finally:
            self._accepted -= 1
            self._ended.set()
            self._ended = trio.Event()

    async def _room(self) -> None:
        """Wait until one more connection is allowed.

        Drops the connection that has waited longest for its client.
        """
        while self._accepted >= self.limit:
            self._log_once_a_minute(
                (
                    "connections are at their limit: those that wait longest for their clients are "
                    "closed"
                ),
                limit=self.limit,
            )
            waiting = [
                (since, connection)
                for connection in self._all
                if (since := connection.waiting_since) is not None
            ]
            if waiting:
                _, longest = min(waiting, key=lambda one: one[0])
                self._all.discard(longest)
                longest.drop()
            await self._ended.wait()

    async def _next(self, accept: Accept) -> trio.SocketStream:
        while True:
            try:
                return await accept()
            except OSError as error:
                if error.errno not in PASSING_ERRORS:
                    raise
                self._log_once_a_minute(
                    "no connection can be accepted: raise `ulimit -n` or close other programs",
                    error=error.strerror,
                )
                await trio.sleep(RETRY_SECONDS)

    def _log_once_a_minute(self, event: str, **fields: object) -> None:
        now = trio.current_time()
        if self._logged_at is None or now >= self._logged_at + LOG_SECONDS:
            self._logged_at = now
            log.warning(event, **fields)
