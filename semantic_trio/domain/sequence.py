"""One request's life: waiting, prefilling, decoding, finished; and back to waiting when it is preempted.

Knows its tokens, its text and how far each has got. Knows nothing of other sequences.
"""

import enum

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import TokenRun
from semantic_trio.domain.entries import CacheEntry
from semantic_trio.domain.generation import Event, Finished, FinishReason, GenerationRequest, TokenEvent
from semantic_trio.domain.reuse import Reuse
from semantic_trio.domain.speculation import PromptLookup
from semantic_trio.domain.step import Drawn
from semantic_trio.domain.stopping import StopStrings, TextDecoder


class Phase(enum.Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    READ = "read"  # its prompt is read, and nothing is to be drawn
    FINISHED = "finished"


@attrs.define(eq=False)
class Sequence:
    """A request and what became of it."""

    request: GenerationRequest
    max_tokens: int  # what fits: the request's own limit or the rest of the context
    _decoder: TextDecoder
    arrival: int = 0  # its place among all sequences; the youngest gives way
    agent: Agent | None = None  # whose turn it is; where no client says so, known when it is first tried
    phase: Phase = attrs.field(init=False, default=Phase.WAITING)
    row: int = attrs.field(init=False, default=-1)
    generated: list[int] = attrs.field(init=False, factory=list)
    replay: tuple[int, ...] = attrs.field(init=False)  # what must be read before the next token can be drawn
    run: TokenRun | None = attrs.field(init=False, default=None)  # the same, with names
    reuse: Reuse | None = attrs.field(init=False, default=None)  # of the first time it had a row
    recalls: int = attrs.field(init=False, default=0)  # how often something was brought back from disk for it
    awaited: frozenset[CacheEntry] = attrs.field(init=False, default=frozenset())  # what that was, and what it goes with
    snapshot_positions: set[int] = attrs.field(init=False, factory=set)  # positions at which a chunk has to end
    passing: set[int] = attrs.field(init=False, factory=set)  # those of them whose snapshots take each other's place
    lookup: PromptLookup = attrs.field(init=False, factory=PromptLookup)
    _stops: StopStrings = attrs.field(init=False)
    _read: int = attrs.field(init=False, default=0)  # of `replay`, as planned
    _planned: int = attrs.field(init=False, default=0)  # tokens whose drawing is planned or done

    def __attrs_post_init__(self) -> None:
        self._stops = StopStrings(self.request.stop_strings, self.request.thoughts)
        self.replay = self.request.prompt

    @property
    def unread(self) -> int:
        """Prompt tokens still to be read."""
        return len(self.replay) - self._read

    @property
    def unread_to_snapshot(self) -> int:
        """Prompt tokens to be read before the next chunk has to end."""
        ahead = [position for position in self.snapshot_positions if position > self._read]
        return min(ahead, default=len(self.replay)) - self._read

    @property
    def context(self) -> int:
        """Tokens of the prompt already read, as planned."""
        return self._read

    @property
    def fed(self) -> int:
        """Tokens in the row's cache once what was planned is done."""
        drawn_since = self._planned - (len(self.replay) - len(self.request.prompt))
        return self._read + drawn_since - 1 if drawn_since > 1 else self._read

    @property
    def known(self) -> int:
        """Those of them that have been seen here: the token drawn last may not have been."""
        fed, seen = self.fed, len(self.request.prompt) + len(self.generated)
        return min(seen, fed)

    @property
    def wants_decode(self) -> bool:
        """Whether another token should be planned."""
        return self.phase is Phase.DECODING and self._planned < self.max_tokens

    @property
    def unknown(self) -> int:
        """Tokens whose drawing is planned and that have not been seen here."""
        return self._planned - len(self.generated)

    @property
    def most_drafts(self) -> int:
        """Drafts that the next step may verify: a draw that depends on those before it cannot be verified, and none goes beyond the limit."""
        return 0 if self.request.looks_back else self.max_tokens - self._planned - 1

    def start(self, row: int, restored: int) -> None:
        """Take a row whose cache holds the first `restored` tokens, and read on."""
        self.row, self.phase, self._read = row, Phase.PREFILLING, restored

    def read(self, count: int) -> tuple[tuple[int, ...], int | None]:
        """Plan to read `count` more tokens: the tokens, and the index of the token drawn after them when they end the prompt."""
        piece = self.replay[self._read : self._read + count]
        self._read += count
        if self.unread:
            return piece, None
        if not self.max_tokens:
            self.phase = Phase.READ
            return piece, None
        self.phase = Phase.DECODING
        return piece, self.draw()

    def draw(self) -> int:
        """Plan to draw the next token; its index."""
        self._planned += 1
        return self._planned - 1

    def preempt(self) -> None:
        """Give the row up and wait again; what was generated is read back like a prompt, and the draw goes on where it stopped."""
        self.replay, self.run = self.request.prompt + tuple(self.generated), None
        self._read, self._planned = 0, len(self.generated)
        self.row, self.phase = -1, Phase.WAITING

    def accept(self, drawn: Drawn) -> list[Event]:
        """Take a drawn token: the events it causes, the last of them `Finished` when it ends the sequence."""
        self.generated.append(drawn.token)
        self._planned = max(self._planned, len(self.generated))  # more than planned where drafts were accepted
        ends_turn = drawn.token in self.request.stop_tokens
        text = "" if ends_turn else self._stops.push(self._decoder.push(drawn.token))
        events: list[Event] = [TokenEvent(drawn.token, text, drawn.logprob, drawn.top)]
        reason = self._reason_to_end(ends_turn)
        if reason is not None:
            events.append(self.finish(reason))
        return events

    def finish(self, reason: FinishReason) -> Finished:
        """End."""
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
            reuse=self.reuse or Reuse(prompt_tokens=len(self.request.prompt)),
        )

    def _reason_to_end(self, ends_turn: bool) -> FinishReason | None:
        if self._stops.found is not None:
            return FinishReason.STOP_STRING
        if ends_turn:
            return FinishReason.END_OF_TURN
        if len(self.generated) < self.max_tokens:
            return None
        return FinishReason.MAX_TOKENS if self.max_tokens == self.request.max_tokens else FinishReason.CONTEXT_FULL
