"""Server-sent events: a generation as a stream of bytes that stays alive while nothing comes, and ends cleanly only when it is complete.

Knows events and silence. Each protocol's own words are its `StreamEncoder`.
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
    """The stream has told its error; raised so that the connection is dropped and nobody takes the part for the whole."""


Piece = TypeVar("Piece")  # what an answer consists of: a part of it, or of one of several
Told_co = TypeVar("Told_co", covariant=True)
Heard_contra = TypeVar("Heard_contra", contravariant=True)


class EventSource(Protocol[Told_co]):
    """Where events come from: an answer, several, or what stands for one until there is one."""

    async def receive(self) -> Sequence[Told_co | Finished | Failed]:
        """All events that have come, as soon as there is one; neighbouring pieces of a text or a thought are one. Cancelling it loses nothing."""


class StreamEncoder(Protocol[Heard_contra]):
    """A protocol's events."""

    @property
    def ping(self) -> bytes:
        """Means nothing, and keeps the connection and its client's patience alive."""

    def opening(self) -> bytes:
        """What is sent before anything is known."""

    def part(self, part: Heard_contra) -> bytes:
        """More of the answer: of its text, of a thought, of a call. Empty where clients are not told of it."""

    def ending(self, finished: Finished) -> bytes:
        """All that follows the last token."""

    def failure(self, error: SemanticError) -> bytes:
        """The last words of a stream that failed."""


def event_stream(events: EventSource[Piece], encoder: StreamEncoder[Piece], pace: WritePace, ping_seconds: float) -> Response:
    """The answer that streams a generation."""
    response = Response(_stream(events, encoder, pace, ping_seconds), content_type="text/event-stream; charset=utf-8")
    response.timeout = None  # the framework's own would end a long stream silently
    response.headers["cache-control"] = "no-cache"
    response.headers["x-accel-buffering"] = "no"
    return response


def encode_event(data: object, name: str | None = None) -> bytes:
    """One event."""
    line = b"data: " + encode_json(data) + b"\n\n"
    return line if name is None else b"event: " + name.encode() + b"\n" + line


async def _stream(events: EventSource[Piece], encoder: StreamEncoder[Piece], pace: WritePace, ping_seconds: float) -> AsyncGenerator[bytes, None]:
    yield encoder.opening()
    last: Piece | Finished | Failed | None = None
    while not isinstance(last, Finished):
        told = b""
        with trio.move_on_after(ping_seconds):
            while not told:  # of some events a client is told nothing: it needs pings meanwhile
                arrived = await events.receive()
                last, told = arrived[-1], b"".join(_encoded(event, encoder) for event in arrived)
                if not told:
                    await pace.turn()
        yield told or encoder.ping
        if isinstance(last, Failed):
            exchange = current.get()
            exchange.fault = fault_of(last.error, exchange.protocol)
            raise StreamAbortedError(str(last.error))
        await pace.turn()


def _encoded(event: Piece | Finished | Failed, encoder: StreamEncoder[Piece]) -> bytes:
    match event:
        case Finished():
            return encoder.ending(event)
        case Failed():
            return encoder.failure(event.error)
    return encoder.part(event)
