"""The server before its model is loaded: liveness, and one error for everything else.

Knows the phases of a start. Knows nothing of models.
"""

import attrs
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

from semantic_trio.adapters.http.common.exchange import Exchange
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_encoding import encode_json
from semantic_trio.adapters.http.middleware.response_sender import (
    BodyWatcher,
    ResponseSender,
    refuse,
)

# Seconds after which a client may try again: small models are loaded by then.
RETRY_SECONDS = 5
LIVE = frozenset({"/health/live", "/healthz"})
HEALTH = LIVE | {"/health/ready", "/health/startup"}


@attrs.define(eq=False)
class StartingApp:
    """An ASGI application that stands in for another one until that is `app`."""

    phase: str = "starting"  # of the start, for people
    app: ASGIFramework | None = None

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """See the ASGI specification."""
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013, "reason": self._message})

    @property
    def _message(self) -> str:
        return f"the server is starting ({self.phase}); try again in {RETRY_SECONDS} seconds"

    async def _answer(
        self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        exchange = Exchange.of(scope)
        answer = ResponseSender(exchange, send, [])
        if exchange.path in HEALTH:
            await self._health(exchange.path in LIVE, answer)
        else:
            await refuse(
                Fault(503, self._message, retry_after_seconds=RETRY_SECONDS),
                BodyWatcher(receive),
                answer,
            )

    async def _health(self, is_ok: bool, answer: ResponseSender) -> None:
        body = encode_json({"status": "ok" if is_ok else "unavailable", "state": self.phase})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await answer(
            {"type": "http.response.start", "status": 200 if is_ok else 503, "headers": headers}
        )
        await answer({"type": "http.response.body", "body": body, "more_body": False})
