"""Generations: the events, the times and the end of one submitted request.

Knows its channel. Knows nothing of other requests or of the wire.
"""

from collections.abc import Callable

import attrs
import trio

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.generation import (
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    TokenEvent,
)
from semantic_trio.domain.reuse import NOTHING_REUSED, Reuse


@attrs.define(eq=False)
class Generation:
    """A submitted request, returned by `Engine.submit`.

    The caller has to close it; closing is synchronous and may be repeated.

    The channel holds every event the request can cause, so a caller that does not read delays no
    other.
    """

    request: GenerationRequest
    submitted_at: float  # seconds on trio's clock, as are the stamps
    events: trio.MemoryReceiveChannel[Event]
    _send: trio.MemorySendChannel[Event]
    _on_close: Callable[["Generation"], None]
    # when its row was opened first
    started_at: float | None = attrs.field(init=False, default=None)
    stamps: list[float] = attrs.field(init=False, factory=list)  # when each token was sampled
    # None before the first event, and if the request never had a row
    reuse: Reuse | None = attrs.field(init=False, default=None)
    # agent of the turn; None before the first event
    agent: Agent | None = attrs.field(init=False, default=None)
    # its last event was delivered, or it was closed
    is_over: bool = attrs.field(init=False, default=False)
    _over: trio.Event = attrs.field(init=False, factory=trio.Event)  # set with `is_over`

    def close(self) -> None:
        """Cancel the rest of the generation. The row leaves the batch with the next step."""
        if not self.is_over:
            self._end()
            self._on_close(self)

    def cut_short(self, tokens: int) -> Finished:
        """Return the end of a generation that its reader has closed after so many tokens."""
        return Finished(
            FinishReason.END_OF_TURN,
            "",
            None,
            len(self.request.prompt),
            tokens,
            self.reuse or NOTHING_REUSED,
        )

    def deliver(self, event: Event, now: float) -> None:
        """Hand an event of the engine to the reader of a generation that is not over; `now` is
        trio's time, the same for all events of a step.
        """
        self._send.send_nowait(event)
        if isinstance(event, TokenEvent):
            self.stamps.append(now)
        else:
            self._end()

    async def wait(self, seconds: float) -> None:
        """Return when the generation is over, at the latest after so many seconds."""
        with trio.move_on_after(seconds):
            await self._over.wait()

    async def result(self) -> GenerationResult:
        """Read all events. Raises the error of a generation that failed."""
        text, tokens = "", list[TokenEvent]()
        async for event in self.events:
            if isinstance(event, Failed):
                raise event.error
            text += event.text
            if isinstance(event, Finished):
                generated, logprobs = (
                    tuple(t.token for t in tokens),
                    tuple(t.logprob for t in tokens),
                )
                return GenerationResult(text, generated, logprobs, event)
            tokens.append(event)
        raise trio.ClosedResourceError("the generation was closed by its caller")

    def _end(self) -> None:
        self.is_over = True
        self._over.set()
        self._send.close()
