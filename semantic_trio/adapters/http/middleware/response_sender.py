"""The way out of a request: its response, its errors, and what its client still sends meanwhile.

Knows ASGI messages and errors. Knows no route and no application.
"""

import functools
from collections.abc import Awaitable, Callable

import attrs
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, ASGISendEvent

from semantic_trio.adapters.http.common.exchange import Exchange
from semantic_trio.adapters.http.common.faults import Fault, envelope
from semantic_trio.adapters.http.common.unreadable_content import unread_headers
from semantic_trio.adapters.http.middleware.cors import VARY, Header, preflight_headers

# Seconds in which a client may go on sending a body that is not read: a connection closed on unread
# bytes is reset, and the response is lost.
LINGER_SECONDS = 2.0

Send = Callable[[], Awaitable[None]]


@attrs.define(eq=False)
class ResponseSender:
    """`send`, watched: adds the request's id and the headers for its origin, and records how far
    the response got.
    """

    exchange: Exchange
    send: ASGISendCallable
    # none for a request that comes from no page, or from one that is not admitted
    origin_headers: list[Header]
    _last: ASGISendEvent | None = attrs.field(init=False, default=None)

    async def hold_last(self, message: ASGISendEvent) -> None:
        """Send a message of the application, but keep the last one for `send_last`.

        Hypercorn answers it with a disconnect, and quart-trio a disconnect with the cancellation of
        the task that sends it: the connection was then neither closed nor given its idle timeout.
        Outside the application's nursery nobody cancels (test_containment.py).
        """
        if message["type"] == "http.response.body" and not message["more_body"]:
            self._last = message
        else:
            await self(message)

    async def send_last(self) -> None:
        """Send the last message, if the application got that far."""
        if self._last is not None:
            await self(self._last)

    async def __call__(self, message: ASGISendEvent) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.exchange.status = message["status"]
            request_id = self.exchange.request_id.encode()
            own = [
                (b"request-id", request_id),
                (b"x-request-id", request_id),
                VARY,
                *self.origin_headers,
                *unread_headers(self.exchange.unread),
            ]
            message = {
                "type": "http.response.start",
                "status": message["status"],
                "headers": [*message["headers"], *own],
            }
        await self.send(message)
        if message["type"] == "http.response.body" and not message["more_body"]:
            self.exchange.is_complete = True

    async def preflight(self) -> None:
        """Answer a preflight of a browser."""
        await self(
            {
                "type": "http.response.start",
                "status": 204,
                "headers": preflight_headers(self.exchange.headers),
            }
        )
        await self({"type": "http.response.body", "body": b"", "more_body": False})

    async def error(self, fault: Fault, *, close: bool = False) -> None:
        """Send a whole error but for the last, empty message when `close` is set."""
        self.exchange.fault = fault
        body = envelope(fault, self.exchange.protocol, self.exchange.request_id)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *fault.headers,
        ]
        if close:
            headers.append(("connection", "close"))
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await self({"type": "http.response.start", "status": fault.status, "headers": encoded})
        await self({"type": "http.response.body", "body": body, "more_body": close})

    async def end(self) -> None:
        """Send the last, empty message."""
        await self({"type": "http.response.body", "body": b"", "more_body": False})


@attrs.define(eq=False)
class BodyWatcher:
    """`receive`, watched: records whether the body has arrived to its end."""

    receive: ASGIReceiveCallable
    is_whole: bool = attrs.field(init=False, default=False)

    async def __call__(self) -> ASGIReceiveEvent:
        """Return the next message."""
        message = await self.receive()
        if message["type"] != "http.request" or not message["more_body"]:
            self.is_whole = True
        return message


async def refuse(fault: Fault, incoming: BodyWatcher, answer: ResponseSender) -> None:
    """Send an error without the application, and close the connection."""
    await send_while_discarding(
        incoming, answer.end, functools.partial(answer.error, fault, close=True)
    )


async def send_while_discarding(
    incoming: BodyWatcher, send_last: Send, send_first: Send = trio.lowlevel.checkpoint
) -> None:
    """Send a response, and discard for a moment what the client still sends before the last
    message.

    Reading goes on in a task of its own: hypercorn's reader waits for it when its queue is full,
    and our last `send` would wait for that reader.
    """
    sent_all = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard, incoming, sent_all)
        await send_first()
        with trio.move_on_after(LINGER_SECONDS):
            await sent_all.wait()
        await send_last()
        nursery.cancel_scope.cancel()


async def _discard(incoming: BodyWatcher, sent_all: trio.Event) -> None:
    while True:
        if incoming.is_whole:
            sent_all.set()
        message = await incoming()
        if message["type"] == "http.disconnect":
            sent_all.set()
            return
