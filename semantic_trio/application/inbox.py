"""The inbox of the engine: what other tasks have sent to its loop.

Knows messages and their order. Knows nothing of what they change.
"""

import math
from collections.abc import Iterator

import attrs
import trio

from semantic_trio.application.generation import Generation
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.stopping import TextDecoder


@attrs.frozen(eq=False)
class Submitted:
    """A generation was submitted."""

    generation: Generation
    decoder: TextDecoder
    asker: Agent | None  # agent that the request names


@attrs.frozen(eq=False)
class Closed:
    """A generation was closed by its caller."""

    generation: Generation


@attrs.frozen(eq=False)
class Hurried:
    """An interactive request waits for the end of a background generation."""

    generation: Generation


@attrs.frozen(eq=False)
class Nudge:
    """The memory has orders for the device, or free bytes."""


Message = Submitted | Closed | Hurried | Nudge


@attrs.define(eq=False)
class Inbox:
    """Messages in the order in which they were sent.

    Each open generation has three under way at most, so the inbox needs no bound of its own.
    """

    _send: trio.MemorySendChannel[Message] = attrs.field(init=False)
    _receive: trio.MemoryReceiveChannel[Message] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Message](math.inf)

    def put(self, message: Message) -> None:
        """Send a message to the loop."""
        self._send.send_nowait(message)

    async def take(self) -> Message:
        """Wait for a message."""
        return await self._receive.receive()

    def take_arrived(self) -> Iterator[Message]:
        """Yield the messages that have arrived."""
        while True:
            try:
                yield self._receive.receive_nowait()
            except trio.WouldBlock:
                return
