"""Server-sent events: a generation as a stream of bytes that stays alive while nothing comes, and ends cleanly only when it is complete.

Knows events and silence. Each protocol's own words are its `StreamEncoder`.
"""

from collections.abc import AsyncGenerator, Iterator
from typing import Protocol

import msgspec
import trio
from quart import Response

from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Event, Failed, Finished, TokenEvent


class StreamAbortedError(Exception):
    """The stream has told its error; raised so that the connection is dropped and nobody takes the part for the whole."""


class EventSource(Protocol):
    """Where events come from: a generation's channel, or what stands for it until there is one."""

    async def receive(self) -> Event:
        """The next event. Cancelling it loses nothing."""

    def receive_nowait(self) -> Event:
        """The same, or `trio.WouldBlock`, or `trio.EndOfChannel` after the last."""


class StreamEncoder(Protocol):
    """A protocol's events."""

    @property
    def ping(self) -> bytes:
        """Means nothing, and keeps the connection and its client's patience alive."""

    def opening(self) -> bytes:
        """What is sent before anything is known."""

    def text(self, text: str) -> bytes:
        """A piece of the answer."""

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
        arrived = await _arrivals(events, ping_seconds)
        payload = b"".join(_encoded(arrived, encoder)) if arrived else encoder.ping
        if payload:
            yield payload
        if arrived and isinstance(arrived[-1], Finished):
            return
        if arrived and isinstance(arrived[-1], Failed):
            raise StreamAbortedError(str(arrived[-1].error))


async def _arrivals(events: EventSource, ping_seconds: float) -> list[Event]:
    """All events that have come, as soon as there is one; none after `ping_seconds` of silence."""
    arrived: list[Event] = []
    with trio.move_on_after(ping_seconds):
        arrived.append(await events.receive())
    while arrived:
        try:
            arrived.append(events.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            break
    return arrived


def _encoded(events: list[Event], encoder: StreamEncoder) -> Iterator[bytes]:
    for event in events:
        match event:
            case TokenEvent():
                if event.text:
                    yield encoder.text(event.text)
            case Finished():
                if event.text:
                    yield encoder.text(event.text)
                yield encoder.ending(event)
            case Failed():
                yield encoder.failure(event.error)
