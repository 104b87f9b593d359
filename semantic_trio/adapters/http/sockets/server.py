"""Sockets, HTTP/1.1 and HTTP/2 without TLS: hypercorn, contained.

Knows connections. Knows nothing of the application. Does what hypercorn 0.18.0 does not do itself:
an exception in one connection stays in it, a client that does not read is dropped after a while,
and the sockets are bound before anything else happens. The reproductions are
tests/http/test_containment.py: when they pass with hypercorn's own `serve`, delete this class.
"""

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    Scope,
)
from hypercorn.utils import wrap_app

from semantic_trio.adapters.http.sockets.binding import bind
from semantic_trio.adapters.http.sockets.connections import Connections, most_connections

log = structlog.get_logger(__name__)

# Seconds an idle connection stays open. Clients pool connections for 5 s (httpx) to minutes;
# closing first races with their next request.
KEEP_ALIVE_SECONDS = 75
# Seconds from the first byte of a request to the end of its headers, whose bytes may come as slowly
# as they like within.
HEAD_SECONDS = 15
# Bytes of request line and headers together.
MAX_HEADER_BYTES = 65_536
# Bytes that the client of a WebSocket may send, in all: the dashboard says nothing after its
# handshake but that it leaves. Hypercorn itself goes on collecting a message that is too long.
MAX_WEBSOCKET_BYTES = 4_096
# Code of a WebSocket that is closed because its server ends (RFC 6455, 7.4.1).
GOING_AWAY = 1001


class ContainedConfig(Config):
    """Hypercorn's settings, and those of this module."""

    write_timeout_seconds: float = 10.0
    head_seconds: float = HEAD_SECONDS


class ContainedServer(TCPServer):
    """A connection; its failures end no other connection."""

    config: ContainedConfig
    stream: trio.SocketStream  # type: ignore[assignment]  # hypercorn annotates TLS streams alone and takes both
    _has_left = False  # True after the client's last byte
    _idle: trio.CancelScope | None = None  # of the idle timer, until the next request begins
    _waiting_since: float
    _websocket_bytes = 0  # that the client of a WebSocket has sent

    async def run(self) -> None:
        """Serve the connection until it closes. Raises nothing but cancellation."""
        self._waiting_since = trio.current_time()
        try:
            await super().run()
        except* Exception as group:  # noqa: BLE001
            # Hypercorn's own `run` catches OSError alone, and then one malformed WebSocket or h2c
            # upgrade ends the server (hypercorn #225).
            log.warning("connection failed", error=_first_leaf(group))
        finally:
            self.drop()  # hypercorn does not close a connection whose task is cancelled

    @property
    def waiting_since(self) -> float | None:
        """See `Connection.waiting_since`.

        Of HTTP/2 it is not known whether requests are whole: such a connection waits when it is
        idle.
        """
        inner = self.protocol.protocol if hasattr(self, "protocol") else None
        if isinstance(inner, H11Protocol) and inner.connection.their_state in {
            h11.IDLE,
            h11.SEND_BODY,
        }:
            return self._waiting_since
        return self._waiting_since if self._idle is not None else None

    def drop(self) -> None:
        """See `Connection.drop`. Its reader wakes up and ends everything else."""
        self.stream.socket.close()

    async def _read_data(self) -> None:
        """Read until the client closes, and then end the idle timer: hypercorn's own waits for the
        keep-alive time with the socket in CLOSE-WAIT.
        """
        with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            while data := await self.stream.receive_some(MAX_RECV):
                self._begin_head()
                if self._says_too_much(len(data)):
                    break
                await self.protocol.handle(RawData(bytes(data)))
                if self._is_refused_websocket:
                    break
            await self.protocol.handle(RawData(b""))
        if self._websocket is not None:
            self.drop()  # hypercorn leaves the connection open when it refuses a handshake
        await self.protocol.handle(Closed())
        self._has_left = True
        await self.idle_task.stop()

    @property
    def _websocket(self) -> H11Protocol | None:
        """The protocol of a connection that has become a WebSocket."""
        inner = self.protocol.protocol
        return (
            inner
            if isinstance(inner, H11Protocol) and isinstance(inner.connection, H11WSConnection)
            else None
        )

    def _says_too_much(self, size: int) -> bool:
        """Count bytes of a WebSocket's client; True beyond what it may send."""
        if self._websocket is not None:
            self._websocket_bytes += size
        return self._websocket_bytes > MAX_WEBSOCKET_BYTES

    @property
    def _is_refused_websocket(self) -> bool:
        """True if hypercorn has refused the handshake of a WebSocket, or what came with it."""
        stream = self._websocket.stream if self._websocket else None
        return stream is not None and stream.closed

    async def _idle_timeout(self) -> None:
        """Close the connection when no request begins for the keep-alive time, or one that has
        begun does not get to the end of its headers.
        """
        with trio.move_on_after(self.config.keep_alive_timeout) as self._idle:
            await self.context.terminated.wait()
        with trio.CancelScope(shield=True):
            await self._initiate_server_close()

    def _begin_head(self) -> None:
        """Start the deadline for a request's headers: once, however many bytes arrive."""
        if self._idle is not None:
            self._idle.deadline = min(
                self._idle.deadline, trio.current_time() + self.config.head_seconds
            )
            self._idle = None

    async def protocol_send(self, event: Event) -> None:
        """Send raw bytes within the write timeout, or drop the connection; everything else is
        hypercorn's.
        """
        if isinstance(event, Updated) and event.idle:
            self._waiting_since = trio.current_time()
            if self._has_left:
                return  # an answer that ends after the client has left begins no keep-alive time
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            rest = self._send_now(event.data)
            sent = not rest or await self._send_in_time(rest)
        if not sent:
            await trio.aclose_forcefully(self.stream)
            await self.protocol.handle(Closed())

    def _send_now(self, data: bytes) -> bytes:
        """Send what the socket takes at once and return the rest, which is all of it if the socket
        fails.

        Nearly every write of a stream ends here, and costs neither a deadline nor another turn of
        the event loop.
        """
        try:
            return data[os.write(self.stream.socket.fileno(), data) :]
        except OSError:
            return data

    async def send_in_time(self, send: ASGISendCallable, message: ASGISendEvent) -> None:
        """Send a message of an HTTP/2 answer, or drop the connection: its client may keep a stream
        from being sent, with raw bytes going through.
        """
        with trio.move_on_after(self.config.write_timeout_seconds) as waiting:
            await send(message)
        if waiting.cancelled_caught:
            self.drop()

    async def _send_in_time(self, data: bytes) -> bool:
        # A client that stops reading would hold this write, and so the shutdown, for ever:
        # hypercorn shields it without a deadline.
        with trio.move_on_after(self.config.write_timeout_seconds, shield=True):
            try:
                await self.stream.send_all(data)
            except (
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.BusyResourceError,
            ):  # busy: the reader is closing it
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
    """Serve `app` until `shutdown`; then accept no connection, let requests end within
    `graceful_seconds`, and drop the rest.

    Reports the bound port once clients can connect. Returns at the latest `graceful_seconds` and
    one write timeout after `shutdown`. Raises `OSError` when the address cannot be bound, before
    anything else happens.
    """
    listeners = [
        trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in await bind(host, port)
    ]
    context = WorkerContext(None)
    connections = Connections(most_connections())
    connection = partial(_connection, app, _config(write_timeout_seconds), context, connections)
    async with trio.open_nursery() as serving:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(connections.accept, listener, connection, serving)
            task_status.started(listeners[0].socket.getsockname()[1])
            await shutdown.wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        serving.cancel_scope.deadline = trio.current_time() + graceful_seconds


async def _connection(
    app: ASGIFramework,
    config: Config,
    context: WorkerContext,
    connections: Connections,
    stream: trio.SocketStream,
) -> None:
    async def bounded(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":
            await _until_terminated(context, partial(app, scope, receive, send), send)
            return
        is_http2 = scope["type"] == "http" and scope["http_version"] == "2"
        await app(scope, receive, partial(server.send_in_time, send) if is_http2 else send)

    wrapped, state = wrap_app(bounded, 0, "asgi"), ConnectionState({})
    # Hypercorn annotates TLS streams alone and takes both.
    server = ContainedServer(wrapped, config, context, state, stream)  # type: ignore[arg-type]
    connections.add(server)
    try:
        await server.run()
    finally:
        connections.discard(server)


async def _until_terminated(
    context: WorkerContext, run: Callable[[], Awaitable[None]], send: ASGISendCallable
) -> None:
    """Run the application of a WebSocket until it returns or the server ends: a WebSocket has no
    end of its own.
    """

    async def cancel_at_the_end() -> None:
        await context.terminated.wait()
        serving.cancel()

    with trio.CancelScope() as serving:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at_the_end)
                await run()
                nursery.cancel_scope.cancel()
        except* (
            h11.LocalProtocolError
        ) as group:  # hypercorn is refusing the handshake at the same time
            log.warning("connection failed", error=_first_leaf(group))
    if serving.cancelled_caught:
        await send(
            {"type": "websocket.close", "code": GOING_AWAY, "reason": "the server is ending"}
        )


def _config(write_timeout_seconds: float) -> ContainedConfig:
    config = ContainedConfig()
    config.write_timeout_seconds = write_timeout_seconds
    config.head_seconds = HEAD_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.websocket_max_message_size = MAX_WEBSOCKET_BYTES
    config.include_server_header = False
    # no handler of its own: lines go where all lines go
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _first_leaf(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
