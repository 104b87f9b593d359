"""What every request passes: its id, the access rules, the bound on its body, the release of what it held, the log line.

A small ASGI middleware, because a client may leave before a handler's first line or a generator's first value, and only what encloses both always
runs. Knows no single route. Never logs what was said.
"""

import attrs
import structlog
import trio
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, ASGISendEvent, HTTPScope, Scope

from semantic_trio.adapters.http.access import Access
from semantic_trio.adapters.http.body import read_body
from semantic_trio.adapters.http.cors import VARY, Header, answer_headers, is_preflight, preflight_headers
from semantic_trio.adapters.http.exchange import Exchange, current
from semantic_trio.adapters.http.faults import Fault, envelope
from semantic_trio.adapters.http.intake import brings_archive, receive_archive
from semantic_trio.adapters.http.paths import API_PREFIX, Paths
from semantic_trio.adapters.http.sse import StreamAbortedError
from semantic_trio.adapters.http.state import AppState
from semantic_trio.adapters.http.unread import unread_headers

log = structlog.get_logger(__name__)

# How long a refused client may go on sending: a connection closed on unread bytes is reset, and the answer lost on its way.
LINGER_SECONDS = 2.0


@attrs.frozen(eq=False)
class Gate:
    """The ASGI application around the application."""

    app: ASGIFramework
    state: AppState
    access: Access
    paths: Paths

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http":
            await self._exchange(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "no WebSockets here"})
        else:
            await self.app(scope, receive, send)

    async def _exchange(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        scope = self.paths.normalised(scope)
        exchange = Exchange.of(scope)
        began = trio.current_time()
        token = current.set(exchange)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                with exchange.stack:
                    await self._admit(exchange, scope, receive, self._answer(exchange, send))
            finally:
                current.reset(token)
                self._record(exchange, trio.current_time() - began)

    def _answer(self, exchange: Exchange, send: ASGISendCallable) -> "_Answer":
        origin = exchange.headers.get("origin", "")
        return _Answer(exchange, send, answer_headers(origin) if origin and self.access.admits(origin) else [])

    async def _admit(self, exchange: Exchange, scope: HTTPScope, receive: ASGIReceiveCallable, answer: "_Answer") -> None:
        try:
            if is_preflight(exchange.method, exchange.headers):
                self.access.check_page(exchange.headers)
                await answer.preflight()
                return
            self.access.check(exchange.path, exchange.headers)
            is_whole = await self._read(exchange, receive)
        except Fault as fault:
            await _refuse(fault, receive, answer)
            return
        if is_whole:
            await self._run_app(exchange, scope, receive, answer)

    async def _read(self, exchange: Exchange, receive: ASGIReceiveCallable) -> bool:
        """Take the body in; False when the client left before its end. Raises `Fault`."""
        if brings_archive(exchange):
            return await receive_archive(exchange, receive, self.state)
        body = await read_body(exchange.headers, receive, self.state.settings.max_body_bytes)
        exchange.body = body or b""
        return body is not None

    async def _run_app(self, exchange: Exchange, scope: HTTPScope, receive: ASGIReceiveCallable, answer: "_Answer") -> None:
        """Let the application answer. If it fails after it has begun, returning without the last message makes the server drop the connection."""
        try:
            await self.app(scope, _Replay(receive), answer.hold_last)
            await answer.send_last()
        except* StreamAbortedError:
            exchange.was_aborted = True
        except* Exception:
            log.exception("request failed")
            exchange.was_aborted = bool(exchange.status)
            if not exchange.status:
                await answer.error(Fault(500, "internal error"))

    def _record(self, exchange: Exchange, seconds: float) -> None:
        is_asked_for = exchange.path.startswith(API_PREFIX)
        write = log.info if is_asked_for else log.debug  # probes come every few seconds
        write(
            "request",
            method=exchange.method,
            path=exchange.path,
            status=exchange.status,
            outcome=exchange.outcome,
            seconds=round(seconds, 4),
            **({"agent": exchange.agent} if exchange.agent else {}),
            **exchange.tokens,
            **exchange.refusal,
        )
        if is_asked_for:
            self.state.metrics.request_ended(model=exchange.model, protocol=exchange.protocol.value, status=exchange.outcome, seconds=seconds)


@attrs.define(eq=False)
class _Answer:
    """`send`, watched: adds the request's id to the headers, and those of its origin, and remembers how far the answer got."""

    exchange: Exchange
    send: ASGISendCallable
    origin_headers: list[Header]  # none for a request that comes from no page, or from one that is not admitted
    _last: ASGISendEvent | None = attrs.field(init=False, default=None)

    async def hold_last(self, message: ASGISendEvent) -> None:
        """Send a message of the application, but keep the last one for `send_last`.

        Hypercorn answers it with a disconnect, and quart-trio a disconnect with the cancellation of the task that sends it: the connection was
        then neither closed nor given its idle timeout. Outside the application's nursery nobody cancels (test_containment.py).
        """
        if message["type"] == "http.response.body" and not message["more_body"]:
            self._last = message
        else:
            await self(message)

    async def send_last(self) -> None:
        """Send what was kept, if the application came so far."""
        if self._last is not None:
            await self(self._last)

    async def __call__(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            self.exchange.status = message["status"]
            request_id = self.exchange.request_id.encode()
            own = [(b"request-id", request_id), (b"x-request-id", request_id), VARY, *self.origin_headers, *unread_headers(self.exchange.unread)]
            message = {"type": "http.response.start", "status": message["status"], "headers": [*message["headers"], *own]}
        await self.send(message)
        if message["type"] == "http.response.body" and not message["more_body"]:
            self.exchange.is_complete = True

    async def preflight(self) -> None:
        """Answer a browser that asks whether a page may send a request."""
        await self({"type": "http.response.start", "status": 204, "headers": preflight_headers(self.exchange.headers)})
        await self({"type": "http.response.body", "body": b"", "more_body": False})

    async def error(self, fault: Fault, *, close: bool = False) -> None:
        """Send a whole error but for the last, empty message when `close` is set."""
        self.exchange.fault = fault
        body = envelope(fault, self.exchange.protocol, self.exchange.request_id)
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), *fault.headers]
        if close:
            headers.append(("connection", "close"))
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await self({"type": "http.response.start", "status": fault.status, "headers": encoded})
        await self({"type": "http.response.body", "body": body, "more_body": close})


@attrs.define(eq=False)
class _Replay:
    """`receive` after the body was read: an empty body for the framework, then what the client does next, which is to leave."""

    receive: ASGIReceiveCallable
    _is_first: bool = attrs.field(init=False, default=True)

    async def __call__(self) -> ASGIReceiveEvent:
        if self._is_first:
            self._is_first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        return await self.receive()


async def _refuse(fault: Fault, receive: ASGIReceiveCallable, answer: _Answer) -> None:
    """Answer without the application, and let the client finish sending, for a moment, into the void.

    Reading goes on in a task of its own: hypercorn's reader waits for it when its queue is full, and our last `send` would wait for that reader.
    """
    sent_all = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_swallow, receive, sent_all)
        await answer.error(fault, close=True)
        with trio.move_on_after(LINGER_SECONDS):
            await sent_all.wait()
        await answer({"type": "http.response.body", "body": b"", "more_body": False})
        nursery.cancel_scope.cancel()


async def _swallow(receive: ASGIReceiveCallable, sent_all: trio.Event) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            sent_all.set()
        if message["type"] == "http.disconnect":
            return
