"""Sockets and HTTP/1.1: hypercorn, contained.

Knows connections. Knows nothing of the application behind them. What hypercorn 0.18.0 does not do itself is done here: an exception in one
connection stays in it, a client that does not read is dropped after a while, and the sockets are bound before anything else happens. The
reproductions are tests/http/test_containment.py: when they pass with hypercorn's own `serve`, delete this class.
"""

import errno
import logging
import socket
from functools import partial

import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import wrap_app

log = structlog.get_logger(__name__)

# Connections the kernel holds for us while we are busy: the storm of 200 clients must not see a refusal.
BACKLOG = 512
# How long an idle connection stays open. Clients pool connections for 5 s (httpx) to minutes; one that closes first races with their next request.
KEEP_ALIVE_SECONDS = 75
# Bytes of request line and headers together.
MAX_HEADER_BYTES = 65_536


class ContainedConfig(Config):
    """Hypercorn's settings and ours."""

    write_timeout_seconds: float = 10.0


class ContainedServer(TCPServer):
    """One connection, whose failures are its own."""

    config: ContainedConfig
    _has_left = False  # the client sends nothing more

    async def run(self) -> None:
        """Serve the connection until it closes. Raises nothing but cancellation."""
        try:
            await super().run()
        except* Exception as group:  # noqa: BLE001
            # Hypercorn's own `run` catches OSError alone, and then one malformed WebSocket or h2c upgrade ends the server (hypercorn #225).
            log.warning("connection failed", error=_first_leaf(group))

    async def _read_data(self) -> None:
        """Read until the client closes, and then end the idle timer: hypercorn's own waits for the keep-alive time with the socket in CLOSE-WAIT."""
        await super()._read_data()
        self._has_left = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send raw bytes within the write timeout, or drop the connection; everything else is hypercorn's."""
        if isinstance(event, Updated) and event.idle and self._has_left:
            return  # an answer that ends after the client has left begins no keep-alive time
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            sent = await self._send_in_time(event.data)
        if not sent:
            await trio.aclose_forcefully(self.stream)
            await self.protocol.handle(Closed())

    async def _send_in_time(self, data: bytes) -> bool:
        # A client that stops reading would hold this write, and so the shutdown, for ever: hypercorn shields it without a deadline.
        with trio.move_on_after(self.config.write_timeout_seconds, shield=True):
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):  # busy: the reader is closing it
                return False
            return True
        return False


async def serve_http(
    app: ASGIFramework,
    *,
    host: str,
    port: int,
    write_timeout_seconds: float,
    graceful_seconds: float,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `shutdown`; then accept nobody, let requests end within `graceful_seconds`, and drop the rest.

    Reports the bound port once clients can connect. Returns at the latest `graceful_seconds` and one write timeout after `shutdown`.
    Raises `OSError` when the address cannot be bound, before anything else happens.
    """
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in await bind(host, port)]
    context = WorkerContext(None)
    connection = partial(_connection, app, _config(write_timeout_seconds), context)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, connection, listeners, handler_nursery=connections))
            task_status.started(listeners[0].socket.getsockname()[1])
            await shutdown.wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + graceful_seconds


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host`; port 0 takes a free one, the same for all. The caller closes the sockets. Raises `OSError`."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in dict.fromkeys((entry[0], entry[4][0]) for entry in found):
        try:
            sockets.append(_listen(str(address), port, family))
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:  # a name may stand for an address this machine has not got
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


async def _connection(app: ASGIFramework, config: Config, context: WorkerContext, stream: trio.SocketStream) -> None:
    # Hypercorn annotates TLS streams alone and takes both.
    await ContainedServer(wrap_app(app, 0, "asgi"), config, context, ConnectionState({}), stream).run()  # type: ignore[arg-type]


def _config(write_timeout_seconds: float) -> ContainedConfig:
    config = ContainedConfig()
    config.write_timeout_seconds = write_timeout_seconds
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")  # no handler of its own: lines go where all lines go
    return config


def _first_leaf(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
