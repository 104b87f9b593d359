"""Server-sent events: a generation as a stream of bytes that stays alive while nothing comes, and ends cleanly only when it is complete.

Knows events and silence. Each protocol's own words are its `StreamEncoder`.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec
import trio
from quart import Response

from semantic_trio.application.answer import AnswerEvent
from semantic_trio.domain.conversation import Part
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Failed, Finished


class StreamAbortedError(Exception):
    """The stream has told its error; raised so that the connection is dropped and nobody takes the part for the whole."""


class EventSource(Protocol):
    """Where events come from: an answer, or what stands for it until there is one."""

    async def receive(self) -> list[AnswerEvent]:
        """All events that have come, as soon as there is one. Cancelling it loses nothing."""


class StreamEncoder(Protocol):
    """A protocol's events."""

    @property
    def ping(self) -> bytes:
        """Means nothing, and keeps the connection and its client's patience alive."""

    def opening(self) -> bytes:
        """What is sent before anything is known."""

    def part(self, part: Part) -> bytes:
        """More of the answer: of its text, of a thought, or a whole call."""

    def ending(self, finished: Finished) -> bytes:
        """All that follows the last token."""

    def failure(self, error: SemanticError) -> bytes:
        """The last words of a stream that failed."""


def event_stream(events: EventSource, encoder: StreamEncoder, ping_seconds: float) -> Response:
    """The answer that streams a generation."""
    response = Response(_stream(events, encoder, ping_seconds), content_type="text/event-stream; charset=utf-8")
    response.timeout = None  # the framework's own would end a long stream silently
    response.headers["cache-control"] = "no-cache"
    response.headers["x-accel-buffering"] = "no"
    return response


def encode_event(data: object, name: str | None = None) -> bytes:
    """One event."""
    line = b"data: " + msgspec.json.encode(data) + b"\n\n"
    return line if name is None else b"event: " + name.encode() + b"\n" + line


async def _stream(events: EventSource, encoder: StreamEncoder, ping_seconds: float) -> AsyncGenerator[bytes, None]:
    yield encoder.opening()
    while True:
        arrived: list[AnswerEvent] = []
        with trio.move_on_after(ping_seconds):
            arrived = await events.receive()
        yield b"".join(_encoded(event, encoder) for event in arrived) if arrived else encoder.ping
        if arrived and isinstance(arrived[-1], Finished):
            return
        if arrived and isinstance(arrived[-1], Failed):
            raise StreamAbortedError(str(arrived[-1].error))


def _encoded(event: AnswerEvent, encoder: StreamEncoder) -> bytes:
    match event:
        case Finished():
            return encoder.ending(event)
        case Failed():
            return encoder.failure(event.error)
    return encoder.part(event)
