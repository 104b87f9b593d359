"""The response of every route that generates: the whole answer, or a stream of events.

Knows how a response is sent, and that the stream of a model that is being loaded is open meanwhile.
The words of a protocol come from its `StreamEncoder` and its body.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

import attrs
import trio
from quart import Response

from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.http.serving.sse import (
    EventSource,
    StreamEncoder,
    StreamSignals,
    aborted,
    answer_events,
    event_stream,
)
from semantic_trio.application.acquisition import Acquisition
from semantic_trio.domain.errors import InvalidRequestError, SemanticError
from semantic_trio.domain.reuse import Reuse

Part = TypeVar("Part")  # of an answer: what its source yields and its encoder takes
# the JSON body, and how much of the prompt was reused where a prompt was read
Body = tuple[object, Reuse | None]


@attrs.frozen(eq=False)
class Reply(Generic[Part]):
    """An answer that has begun, and its two forms on the wire."""

    events: EventSource[Part]
    encoder: Callable[[], StreamEncoder[Part]]
    whole: Callable[[], Awaitable[Body]]  # waits until the answer is complete


async def respond(
    state: AppState,
    model: str | None,
    begin: Callable[[], Awaitable[Reply[Part]]],
    signals: StreamSignals,
    *,
    is_streamed: bool | None,
) -> Response:
    """Begin an answer, and send its body when it is complete, or its events as they come.

    A stream whose `model` has to be loaded is open meanwhile: its errors are events from then on.
    None: the answer needs no model to be loaded.
    """
    if is_streamed and model is not None and not state.is_open(model):
        acquisition = state.acquisition(model, current.get().stack)
        return event_stream(_events_with_loading(state, acquisition, begin, signals))
    reply = await begin()
    if is_streamed:
        return event_stream(_events(state, reply))
    body, reuse = await reply.whole()
    return json_response(body, reuse=reuse)


def _events(state: AppState, reply: Reply[Part]) -> AsyncGenerator[bytes, None]:
    return answer_events(reply.events, reply.encoder(), state.pace, state.settings.ping_seconds)


async def _events_with_loading(
    state: AppState,
    acquisition: Acquisition[ServedModel],
    begin: Callable[[], Awaitable[Reply[Part]]],
    signals: StreamSignals,
) -> AsyncGenerator[bytes, None]:
    """Yield pings while the model is being loaded, then the events of the answer."""
    reply: Reply[Part] | None = None
    while reply is None:
        yield signals.ping
        try:
            with trio.move_on_after(state.settings.ping_seconds):
                await acquisition.wait()
            if acquisition.is_over:
                reply = await _begun(begin)
        except SemanticError as error:
            yield signals.failure(error)
            raise aborted(error) from error
    acquisition.leave()  # the answer has the model by now
    async with aclosing(_events(state, reply)) as events:
        async for data in events:
            yield data


async def _begun(begin: Callable[[], Awaitable[Reply[Part]]]) -> Reply[Part]:
    """Begin an answer.

    Raises a `SemanticError` for each error that would be a response of its own if nothing were sent
    yet.
    """
    try:
        return await begin()
    except Fault as fault:
        raise InvalidRequestError(fault.message, quotes=fault.is_private) from fault
    except RecursionError as error:
        raise InvalidRequestError("the request is nested too deeply", quotes=False) from error
