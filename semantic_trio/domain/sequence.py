"""One request's life: waiting, prefilling, decoding, finished; and back to waiting when it is preempted.

Knows its tokens, its text and how far each has got. Knows nothing of other sequences.
"""

import enum

import attrs

from semantic_trio.domain.generation import Event, Finished, FinishReason, GenerationRequest, TokenEvent
from semantic_trio.domain.step import Drawn
from semantic_trio.domain.stopping import StopStrings, TextDecoder


class Phase(enum.Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    FINISHED = "finished"


@attrs.define(eq=False)
class Sequence:
    """A request and what became of it."""

    request: GenerationRequest
    max_tokens: int  # what fits: the request's own limit or the rest of the context
    _decoder: TextDecoder
    phase: Phase = attrs.field(init=False, default=Phase.WAITING)
    row: int = attrs.field(init=False, default=-1)
    generated: list[int] = attrs.field(init=False, factory=list)
    _stops: StopStrings = attrs.field(init=False)
    _replay: tuple[int, ...] = attrs.field(init=False)  # what must be read before the next token can be drawn
    _read: int = attrs.field(init=False, default=0)  # of `_replay`, as planned
    _planned: int = attrs.field(init=False, default=0)  # tokens whose drawing is planned or done

    def __attrs_post_init__(self) -> None:
        self._stops = StopStrings(self.request.stop_strings)
        self._replay = self.request.prompt

    @property
    def unread(self) -> int:
        """Prompt tokens still to be read."""
        return len(self._replay) - self._read

    @property
    def context(self) -> int:
        """Tokens of the prompt already read, as planned."""
        return self._read

    @property
    def wants_decode(self) -> bool:
        """Whether another token should be planned."""
        return self.phase is Phase.DECODING and self._planned < self.max_tokens

    def start(self, row: int) -> None:
        """Take a row and begin to read."""
        self.row, self.phase = row, Phase.PREFILLING

    def read(self, count: int) -> tuple[tuple[int, ...], int | None]:
        """Plan to read `count` more tokens: the tokens, and the index of the token drawn after them when they end the prompt."""
        piece = self._replay[self._read : self._read + count]
        self._read += count
        if self.unread:
            return piece, None
        self.phase = Phase.DECODING
        return piece, self.draw()

    def draw(self) -> int:
        """Plan to draw the next token; its index."""
        self._planned += 1
        return self._planned - 1

    def preempt(self) -> None:
        """Give the row up and wait again; what was generated is read back like a prompt, and the draw goes on where it stopped."""
        self._replay = self.request.prompt + tuple(self.generated)
        self._read, self._planned = 0, len(self.generated)
        self.row, self.phase = -1, Phase.WAITING

    def accept(self, drawn: Drawn) -> list[Event]:
        """Take a drawn token: the events it causes, the last of them `Finished` when it ends the sequence."""
        self.generated.append(drawn.token)
        ends_turn = drawn.token in self.request.stop_tokens
        text = "" if ends_turn else self._stops.push(self._decoder.push(drawn.token))
        events: list[Event] = [TokenEvent(drawn.token, text, drawn.logprob)]
        reason = self._reason_to_end(ends_turn)
        if reason is not None:
            events.append(self._finish(reason))
        return events

    def _reason_to_end(self, ends_turn: bool) -> FinishReason | None:
        if self._stops.found is not None:
            return FinishReason.STOP_STRING
        if ends_turn:
            return FinishReason.END_OF_TURN
        if len(self.generated) < self.max_tokens:
            return None
        return FinishReason.MAX_TOKENS if self.max_tokens == self.request.max_tokens else FinishReason.CONTEXT_FULL

    def _finish(self, reason: FinishReason) -> Finished:
        self.phase = Phase.FINISHED
        text = ""
        if self._stops.found is None:
            text = self._stops.push(self._decoder.flush()) + self._stops.flush()
        if self._stops.found is not None:
            reason = FinishReason.STOP_STRING
        return Finished(
            reason=reason,
            text=text,
            stop_string=self._stops.found,
            prompt_tokens=len(self.request.prompt),
            completion_tokens=len(self.generated),
        )
