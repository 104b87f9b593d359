"""The feed of the dashboard: a WebSocket that sends frames while somebody looks on.

Knows ASGI's messages of WebSockets and the access rules. A browser cannot set headers on a
WebSocket: the API key is one of the subprotocols that it offers, in base64url. A viewer sends
nothing. A slow one is sent the newest frame when it has taken the one before: nothing is queued.
"""

import base64
import binascii

import attrs
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope, WebsocketScope

from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_encoding import encode_json
from semantic_trio.adapters.http.dashboard.frame import frame
from semantic_trio.adapters.http.middleware.access import Access
from semantic_trio.adapters.http.serving.app_state import AppState

PATH = "/dashboard/feed"
# The subprotocol of the feed, and the beginning of the one that carries the key.
SUBPROTOCOL, KEY_PREFIX = "semantic-trio.frames", "key."
# Codes with which a WebSocket is closed: of RFC 6455 (7.4.1) and its registry, and one of the range
# that is for applications.
POLICY_VIOLATION, TRY_AGAIN_LATER, WRONG_KEY = 1008, 1013, 4401
# Viewers at the same time: a person has a few windows open.
MOST_VIEWERS = 16
# Seconds between two frames, and after which a frame is sent although nothing has changed: its
# viewer sees that the server lives.
FRAME_SECONDS, HEARTBEAT_SECONDS = 0.2, 5.0
# Part of the event loop that frames may take, and the longest time between two frames that follows
# from it.
MOST_LOAD, LONGEST_FRAME_SECONDS = 0.01, 2.0


@attrs.define(eq=False)
class Feed:
    """The WebSockets of one server. All viewers share the frames."""

    state: AppState
    access: Access
    viewers: int = attrs.field(init=False, default=0)
    _frame: bytes = attrs.field(init=False, default=b"")
    _made_at: float = attrs.field(init=False, default=0.0)
    _due: float = attrs.field(init=False, default=0.0)  # when the next frame is made

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer one WebSocket; return when its viewer has left, or is sent away."""
        assert scope["type"] == "websocket"
        await receive()  # the request to connect
        if not self._is_for_here(scope):
            # before it is accepted: 403
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL, "headers": []})
        code, reason = await self._serve(scope, receive, send)
        if code is not None:
            await send({"type": "websocket.close", "code": code, "reason": reason})

    def _is_for_here(self, scope: WebsocketScope) -> bool:
        """True for a WebSocket of the dashboard, over HTTP/1.1, from a page whose requests are
        answered.
        """
        try:
            self.access.check_page(_headers(scope))
        except Fault:
            return False
        # A stream of HTTP/2 that takes nothing would hold its messages without a deadline.
        return (
            scope["path"] == PATH
            and scope["http_version"] == "1.1"
            and SUBPROTOCOL in scope["subprotocols"]
        )

    async def _serve(
        self, scope: WebsocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> tuple[int | None, str]:
        """Send frames to a viewer while it may have them.

        Returns the code to close with, None for one that has left, and the reason.
        """
        try:
            self.access.check(PATH, _headers(scope))
        except Fault:
            return WRONG_KEY, "missing or wrong API key"
        if self.viewers >= MOST_VIEWERS:
            return TRY_AGAIN_LATER, f"{MOST_VIEWERS} viewers look on already"
        self.viewers += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_frames, send)
                message = await receive()
                nursery.cancel_scope.cancel()
        finally:
            self.viewers -= 1
        return (
            (POLICY_VIOLATION, "viewers send nothing")
            if message["type"] == "websocket.receive"
            else (None, "")
        )

    async def _send_frames(self, send: ASGISendCallable) -> None:
        sent, sent_at = b"", 0.0
        while True:
            self._make()
            if self._frame != sent or self._made_at >= sent_at + HEARTBEAT_SECONDS:
                sent, sent_at = self._frame, self._made_at
                message = f'{{"at":{sent_at:.3f},"frame":{sent.decode()}}}'
                await send({"type": "websocket.send", "bytes": None, "text": message})
            await trio.sleep_until(self._due)

    def _make(self) -> None:
        """Make the next frame, if it is due: once for all viewers, and so seldom that it takes a
        small part of the event loop.
        """
        now = trio.current_time()
        if self._frame and now < self._due:
            return
        self._frame, self._made_at = encode_json(frame(self.state)), now
        cost = trio.current_time() - now
        self._due = now + min(max(FRAME_SECONDS, cost / MOST_LOAD), LONGEST_FRAME_SECONDS)


def _headers(scope: WebsocketScope) -> dict[str, str]:
    """Return the headers of a handshake by their names in lower case, with the key that a browser
    can only send as a subprotocol.
    """
    headers = {
        name.decode("latin1").lower(): value.decode("latin1") for name, value in scope["headers"]
    }
    key = next(
        (
            offered.removeprefix(KEY_PREFIX)
            for offered in scope["subprotocols"]
            if offered.startswith(KEY_PREFIX)
        ),
        None,
    )
    return headers if key is None else {**headers, "x-api-key": _decoded(key)}


def _decoded(key: str) -> str:
    """Return the text of base64url without padding; an empty one for anything else."""
    try:
        return base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)).decode()
    except (binascii.Error, ValueError):
        return ""
