"""The life of every request: its id, the access rules, the bound on its body, the release of what
it holds, the log line.

A small ASGI middleware: a client may leave before a handler's first line or a generator's first
value, and only what encloses both always runs. Knows no single route. Never logs the text of a
conversation.
"""

from collections.abc import Callable

import attrs
import structlog
import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    HTTPScope,
    Scope,
)

from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.trace_context import trace_context
from semantic_trio.adapters.http.middleware.access import Access
from semantic_trio.adapters.http.middleware.archive_upload import has_archive_body, receive_archive
from semantic_trio.adapters.http.middleware.bodies import BodyBudget, ReservedBytes, read_body
from semantic_trio.adapters.http.middleware.content_encoding import (
    decoded,
    encoding_of,
    not_decoded,
)
from semantic_trio.adapters.http.middleware.cors import answer_headers, is_preflight
from semantic_trio.adapters.http.middleware.freed_memory import return_freed_memory
from semantic_trio.adapters.http.middleware.paths import API_PREFIX, Paths
from semantic_trio.adapters.http.middleware.response_sender import (
    BodyWatcher,
    ResponseSender,
    refuse,
    send_while_discarding,
)
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.sse import StreamAbortedError

log = structlog.get_logger(__name__)

# Bodies of the largest size that may be held at the same time; a conversation of a million tokens
# is an eighth of one.
LARGEST_BODIES = 4
# Bytes of a body after which freed memory is returned to the system: an ordinary conversation has
# less, and is not delayed.
LARGE_BODY_BYTES = 8_000_000
# The mark that some editors and shells write in front of a file; JSON has none.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# True if the route of a method and a path reads a body.
WantsBody = Callable[[str, str], bool]


@attrs.frozen(eq=False)
class RequestLifecycle:
    """The ASGI application around the web framework's application."""

    app: ASGIFramework
    state: AppState
    access: Access
    paths: Paths
    wants_body: WantsBody
    websockets: ASGIFramework
    reclaim: Callable[[], None] = return_freed_memory  # called in a worker thread
    _bodies: BodyBudget = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(
            self, "_bodies", BodyBudget(LARGEST_BODIES * self.state.settings.max_body_bytes)
        )

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http":
            await self._exchange(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.websockets(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _exchange(
        self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        scope = self.paths.normalised(scope)
        exchange = Exchange.of(scope)
        began = trio.current_time()
        token = current.set(exchange)
        exchange.trace = trace_context(exchange.headers, begins_traces=self.state.settings.traces)
        with structlog.contextvars.bound_contextvars(**_log_ids(exchange)):
            try:
                with exchange.stack:
                    await self._handle(exchange, scope, receive, self._answer(exchange, send))
            finally:
                current.reset(token)
                self._record(exchange, began, trio.current_time())
        await self._return_memory(exchange)

    async def _return_memory(self, exchange: Exchange) -> None:
        """Return memory to the system after the last of several large bodies; the response is on
        its way by then.
        """
        size, exchange.body = len(exchange.body), b""
        if size >= LARGE_BODY_BYTES and not self._bodies.used_bytes:
            await trio.to_thread.run_sync(self.reclaim)

    def _answer(self, exchange: Exchange, send: ASGISendCallable) -> ResponseSender:
        origin = exchange.headers.get("origin", "")
        return ResponseSender(
            exchange, send, answer_headers(origin) if origin and self.access.admits(origin) else []
        )

    async def _handle(
        self,
        exchange: Exchange,
        scope: HTTPScope,
        receive: ASGIReceiveCallable,
        answer: ResponseSender,
    ) -> None:
        incoming = BodyWatcher(receive)
        try:
            _refuse_ambiguous_length(scope, exchange)
            if is_preflight(exchange.method, exchange.headers):
                self.access.check_page(exchange.headers)
                await answer.preflight()
                return
            self.access.check(exchange.path, exchange.headers)
            is_here = await self._read(exchange, incoming)
        except Fault as fault:
            await refuse(fault, incoming, answer)
            return
        if is_here:
            await self._run_app(exchange, scope, incoming, answer)

    async def _read(self, exchange: Exchange, receive: ASGIReceiveCallable) -> bool:
        """Read the body where the route takes one; False if the client left before its end.

        Raises `Fault`.
        """
        is_archive = has_archive_body(exchange)
        if not is_archive and not self.wants_body(exchange.method, exchange.path):
            return True
        encoding = encoding_of(exchange.headers)
        if not is_archive:
            return await self._read_whole(exchange, receive, encoding)
        if encoding is not None:
            raise not_decoded(encoding)
        return await receive_archive(exchange, receive, self.state)

    async def _read_whole(
        self, exchange: Exchange, receive: ASGIReceiveCallable, encoding: str | None
    ) -> bool:
        held, limit = (
            ReservedBytes(self._bodies, exchange.protocol),
            self.state.settings.max_body_bytes,
        )
        exchange.stack.callback(held.release)
        body = await read_body(exchange.headers, receive, limit, held)
        if body is None:
            return False
        plain = body if encoding is None else await decoded(body, encoding, limit, held)
        exchange.body = plain.removeprefix(BYTE_ORDER_MARK)
        return True

    async def _run_app(
        self, exchange: Exchange, scope: HTTPScope, incoming: BodyWatcher, answer: ResponseSender
    ) -> None:
        """Run the application.

        If it fails after its response has begun, returning without the last message makes the
        server drop the connection.
        """
        try:
            await self.app(scope, _EmptyBodyReceiver(incoming), answer.hold_last)
            if incoming.is_whole:
                await answer.send_last()
            else:
                await send_while_discarding(incoming, answer.send_last)
        except* StreamAbortedError:
            exchange.was_aborted = True
        except* Exception:
            log.exception("request failed")
            exchange.was_aborted = bool(exchange.status)
            if not exchange.status:
                await answer.error(Fault(500, "internal error"))

    def _record(self, exchange: Exchange, began_at: float, ended_at: float) -> None:
        is_asked_for = exchange.path.startswith(API_PREFIX)
        write = log.info if is_asked_for else log.debug  # probes come every few seconds
        write(
            "request",
            method=exchange.method,
            path=exchange.path,
            status=exchange.status,
            outcome=exchange.outcome,
            seconds=round(ended_at - began_at, 4),
            **({"agent": exchange.agent} if exchange.agent else {}),
            **exchange.tokens,
            **exchange.refusal,
        )
        if is_asked_for:
            self.state.observer.observe(exchange.observation(began_at, ended_at))


@attrs.define(eq=False)
class _EmptyBodyReceiver:
    """`receive` for the framework: an empty body, then the client's disconnect.

    Body messages that were not read are discarded.
    """

    receive: ASGIReceiveCallable
    _is_first: bool = attrs.field(init=False, default=True)

    async def __call__(self) -> ASGIReceiveEvent:
        if self._is_first:
            self._is_first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await self.receive())["type"] == "http.request":
            pass
        return message


def _log_ids(exchange: Exchange) -> dict[str, str]:
    """Ids that every log line of the request has."""
    trace = exchange.trace.log_ids if exchange.trace is not None else {}
    return {"request_id": exchange.request_id, **trace}


def _refuse_ambiguous_length(scope: HTTPScope, exchange: Exchange) -> None:
    """Raise `Fault` 400 where a proxy may see another end of the body than this server, and so
    another next request (RFC 9112, 6.3).
    """
    if "transfer-encoding" not in exchange.headers:
        return
    if "content-length" in exchange.headers:
        raise Fault(400, "a request has either Transfer-Encoding or Content-Length, not both")
    if scope["http_version"] == "1.0":
        raise Fault(400, "Transfer-Encoding needs HTTP/1.1")
