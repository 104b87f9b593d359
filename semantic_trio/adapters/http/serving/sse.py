"""Server-sent events: an answer as a stream that stays alive in pauses, and ends cleanly only when
the answer is complete.

Knows events and pauses. The events of each protocol come from its `StreamEncoder`.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, TypeVar

import trio
from quart import Response

from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import fault_of
from semantic_trio.adapters.http.common.json_encoding import encode_json
from semantic_trio.adapters.http.serving.write_pace import WritePace
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Failed, Finished


class StreamAbortedError(Exception):
    """The stream has sent its error event; raised so that the connection is dropped and no client
    takes the part for the whole.
    """


Piece = TypeVar("Piece")  # of an answer, or of one of several answers
Told_co = TypeVar("Told_co", covariant=True)
Heard_contra = TypeVar("Heard_contra", contravariant=True)


class EventSource(Protocol[Told_co]):
    """A source of events: an answer, several answers, or a turn that waits for its answer."""

    async def receive(self) -> Sequence[Told_co | Finished | Failed]:
        """Return all events that have arrived, at least one; adjacent chunks of a text or a thought
        are joined.

        Cancellation loses nothing.
        """


class StreamSignals(Protocol):
    """Encodes the events that a stream may have before its answer has begun."""

    @property
    def ping(self) -> bytes:
        """An event without meaning, which keeps the connection and the client's patience alive."""

    def failure(self, error: SemanticError) -> bytes:
        """Encode the error at the end of a failed stream."""


class StreamEncoder(StreamSignals, Protocol[Heard_contra]):
    """Encodes the events of one stream in a protocol."""

    def opening(self) -> bytes:
        """Encode what is sent before the first part."""

    def part(self, part: Heard_contra) -> bytes:
        """Encode a part of the answer: text, thought or call.

        Empty where the protocol has no event for the part.
        """

    def ending(self, finished: Finished) -> bytes:
        """Encode everything after the last part."""


def event_stream(events: AsyncGenerator[bytes, None]) -> Response:
    """Return the response that streams encoded events."""
    response = Response(events, content_type="text/event-stream; charset=utf-8")
    response.timeout = None  # the framework's own would end a long stream silently
    response.headers["cache-control"] = "no-cache"
    response.headers["x-accel-buffering"] = "no"
    return response


def encode_event(data: object, name: str | None = None) -> bytes:
    """Encode one event."""
    line = b"data: " + encode_json(data) + b"\n\n"
    return line if name is None else b"event: " + name.encode() + b"\n" + line


async def answer_events(
    events: EventSource[Piece], encoder: StreamEncoder[Piece], pace: WritePace, ping_seconds: float
) -> AsyncGenerator[bytes, None]:
    """Yield the events of an answer, and pings in pauses.

    Raises `StreamAbortedError` after the event of an error.
    """
    yield encoder.opening()
    last: Piece | Finished | Failed | None = None
    while not isinstance(last, Finished):
        data = b""
        with trio.move_on_after(ping_seconds):
            while not data:  # some events are not sent: the client needs pings meanwhile
                arrived = await events.receive()
                last, data = arrived[-1], b"".join(_encoded(event, encoder) for event in arrived)
                if not data:
                    await pace.turn()
        yield data or encoder.ping
        if isinstance(last, Failed):
            raise aborted(last.error)
        await pace.turn()


def aborted(error: SemanticError) -> StreamAbortedError:
    """Return the exception to raise after the event of an error; the error is that of the request
    from now on.
    """
    exchange = current.get()
    exchange.fault = fault_of(error, exchange.protocol)
    return StreamAbortedError(str(error))


def _encoded(event: Piece | Finished | Failed, encoder: StreamEncoder[Piece]) -> bytes:
    match event:
        case Finished():
            return encoder.ending(event)
        case Failed():
            return encoder.failure(event.error)
    return encoder.part(event)
