"""Viewers of the dashboard: WebSockets driven through ASGI, and over sockets."""

import base64
import json
from typing import Any, Self

import attrs
import trio
import wsproto
import wsproto.events
from quart_trio import QuartTrio

from semantic_trio.adapters.http.dashboard.feed import KEY_PREFIX, PATH, SUBPROTOCOL

# Seconds, of virtual time, after which a viewer that should have been sent away, or should have
# left, is a failure.
LONGEST_SECONDS = 120.0


def key_subprotocol(key: str) -> str:
    """The subprotocol that carries a key, as the page makes it."""
    return KEY_PREFIX + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@attrs.define(eq=False)
class Viewer:
    """A WebSocket through ASGI, and the messages that it was sent."""

    app: QuartTrio
    path: str = PATH
    headers: dict[str, str] = attrs.field(factory=dict)
    subprotocols: tuple[str, ...] = (SUBPROTOCOL,)
    http_version: str = "1.1"
    seconds_per_frame: float = 0.0  # that it takes to take one
    # time on trio's clock, message
    sent: list[tuple[float, dict[str, Any]]] = attrs.field(factory=list)
    says: trio.MemorySendChannel[dict[str, object]] = attrs.field(init=False)
    _heard: trio.MemoryReceiveChannel[dict[str, object]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.says, self._heard = trio.open_memory_channel[dict[str, object]](2)
        self.says.send_nowait({"type": "websocket.connect"})

    async def run(self) -> "Viewer":
        """Look on until sent away, or until it leaves."""
        headers = {"host": "localhost", **self.headers}
        scope = {
            "type": "websocket",
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "http_version": self.http_version,
            "scheme": "ws",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "subprotocols": list(self.subprotocols),
            "state": {},
            "extensions": {},
        }
        with trio.fail_after(LONGEST_SECONDS):
            await self.app(scope, self._heard.receive, self._send)  # type: ignore[arg-type]
        return self

    def leave(self) -> None:
        """Close it."""
        self.says.send_nowait({"type": "websocket.disconnect", "code": 1001})

    @property
    def frames(self) -> list[tuple[float, dict[str, Any]]]:
        """Times and messages, decoded."""
        return [
            (at, json.loads(message["text"]))
            for at, message in self.sent
            if message["type"] == "websocket.send"
        ]

    @property
    def kinds(self) -> list[str]:
        """Types of all messages."""
        return [message["type"].removeprefix("websocket.") for _, message in self.sent]

    @property
    def close_code(self) -> int | None:
        """Code that it was closed with."""
        return next(
            (message["code"] for _, message in self.sent if message["type"] == "websocket.close"),
            None,
        )

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append((trio.current_time(), message))
        await trio.sleep(self.seconds_per_frame if message["type"] == "websocket.send" else 0)


@attrs.define(eq=False)
class SocketViewer:
    """A WebSocket over a socket."""

    stream: trio.SocketStream
    connection: wsproto.WSConnection = attrs.field(
        factory=lambda: wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    )

    @classmethod
    async def connect(
        cls, port: int, *, key: str | None = None, origin: str | None = None, path: str = PATH
    ) -> "SocketViewer":
        """Send the handshake."""
        viewer = cls(await trio.open_tcp_stream("127.0.0.1", port))
        subprotocols = [SUBPROTOCOL, *([] if key is None else [key_subprotocol(key)])]
        extra = [] if origin is None else [(b"origin", origin.encode())]
        await viewer.send(
            wsproto.events.Request(
                host=f"localhost:{port}",
                target=path,
                subprotocols=subprotocols,
                extra_headers=extra,
            )
        )
        return viewer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, event: wsproto.events.Event) -> None:
        """Send an event."""
        await self.stream.send_all(self.connection.send(event))

    async def events(self) -> list[wsproto.events.Event]:
        """The next events, at least one."""
        while not (found := list(self.connection.events())):
            data = bytes(await self.stream.receive_some())
            self.connection.receive_data(data or None)
        return found

    async def until(self, kind: type[wsproto.events.Event]) -> list[wsproto.events.Event]:
        """All events up to the first of a kind."""
        found: list[wsproto.events.Event] = []
        while not any(isinstance(event, kind) for event in found):
            found += await self.events()
        return found
