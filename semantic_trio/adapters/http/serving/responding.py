"""The response of every route that generates: the whole answer, or a stream of events.

Knows how a response is sent. The words of a protocol come from its `StreamEncoder` and its body.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from quart import Response

from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.sse import EventSource, StreamEncoder, event_stream
from semantic_trio.domain.reuse import Reuse

Part = TypeVar("Part")  # of an answer: what its source yields and its encoder takes
Body = tuple[object, Reuse | None]  # the JSON body, and how much of the prompt was reused where a prompt was read


async def respond(
    state: AppState,
    events: EventSource[Part],
    encoder: Callable[[], StreamEncoder[Part]],
    whole: Callable[[], Awaitable[Body]],
    *,
    is_streamed: bool | None,
) -> Response:
    """Answer with the events of a stream as they come, or with the body that `whole` returns when the answer is complete."""
    if is_streamed:
        return event_stream(events, encoder(), state.pace, state.settings.ping_seconds)
    body, reuse = await whole()
    return json_response(body, reuse=reuse)
