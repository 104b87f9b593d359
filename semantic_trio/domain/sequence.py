"""Sequences: the life of one request, from waiting over prefilling and decoding to finished, and
back to waiting when it is preempted.

Knows its tokens, its text and how far each has got. Knows nothing of other sequences.
"""

import enum

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import TokenRun
from semantic_trio.domain.entries import CacheEntry
from semantic_trio.domain.generation import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    TokenEvent,
)
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.reuse import Reuse
from semantic_trio.domain.salt import adapter_of
from semantic_trio.domain.speculation import PromptLookup
from semantic_trio.domain.step import Restore, RowStart, SampledToken
from semantic_trio.domain.stopping import StopStrings, TextDecoder


class Phase(enum.Enum):
    """The phase of a sequence."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    READ = "read"  # its prompt is read, and no token is to be sampled
    FINISHED = "finished"


@attrs.define(eq=False)
class Sequence:
    """A request with its tokens, its text and its place in the batch."""

    request: GenerationRequest
    max_tokens: int  # limit of the request, or the rest of the context if that is less
    _decoder: TextDecoder
    arrival: int = 0  # place among all sequences; the youngest is preempted first
    # agent of the turn; without a client's choice, set when a row is first tried
    agent: Agent | None = None
    phase: Phase = attrs.field(init=False, default=Phase.WAITING)
    # False for a background request that has waited too long
    is_background: bool = attrs.field(init=False)
    # as a background sequence, all waits together
    waited_seconds: float = attrs.field(init=False, default=0.0)
    row: int = attrs.field(init=False, default=-1)
    generated: list[int] = attrs.field(init=False, factory=list)
    # tokens to read before the next token can be sampled
    replay: tuple[int, ...] = attrs.field(init=False)
    # `replay` with the keys of its blocks
    run: TokenRun | None = attrs.field(init=False, default=None)
    reuse: Reuse | None = attrs.field(init=False, default=None)  # of its first row
    recalls: int = attrs.field(init=False, default=0)  # loads from disk
    # entries of these loads
    awaited: frozenset[CacheEntry] = attrs.field(init=False, default=frozenset())
    # positions at which a chunk has to end
    snapshot_positions: set[int] = attrs.field(init=False, factory=set)
    # those of them where each snapshot replaces the one before
    passing: set[int] = attrs.field(init=False, factory=set)
    lookup: PromptLookup = attrs.field(init=False, factory=PromptLookup)
    _stops: StopStrings = attrs.field(init=False)
    _read: int = attrs.field(init=False, default=0)  # of `replay`, as planned
    _planned: int = attrs.field(init=False, default=0)  # tokens planned or sampled

    def __attrs_post_init__(self) -> None:
        self._stops = StopStrings(self.request.stop_strings, self.request.thoughts)
        self.replay = self.request.prompt
        self.is_background = self.request.priority is Priority.BACKGROUND

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
    def computed_tokens(self) -> int:
        """Tokens in the row's cache once all planned steps are done."""
        sampled_since = self._planned - (len(self.replay) - len(self.request.prompt))
        return self._read + sampled_since - 1 if sampled_since > 1 else self._read

    @property
    def known_tokens(self) -> int:
        """Computed tokens whose ids have come: that of the last sampled token may still be on the
        device.
        """
        return min(self.computed_tokens, len(self.request.prompt) + len(self.generated))

    @property
    def wants_decode(self) -> bool:
        """True if another token should be planned."""
        return self.phase is Phase.DECODING and self._planned < self.max_tokens

    @property
    def pending_tokens(self) -> int:
        """Planned tokens whose ids have not come yet."""
        return self._planned - len(self.generated)

    @property
    def most_drafts(self) -> int:
        """Drafts that the next step may verify: none if sampling depends on the tokens before, and
        none beyond the limit.
        """
        return 0 if self.request.needs_sampled_ids else self.max_tokens - self._planned - 1

    def start(self, row: int, restored: int) -> None:
        """Take a row whose cache holds the first `restored` tokens."""
        self.row, self.phase, self._read = row, Phase.PREFILLING, restored

    def row_start(self, restore: Restore | None) -> RowStart:
        """Return the order to open the row of the sequence, with what its cache begins with."""
        request = self.request
        return RowStart(
            self.row,
            request.seed,
            request.sampling,
            request.forced,
            restore,
            steering=request.steering,
            grammar=request.grammar,
            top_logprobs=request.top_logprobs,
            drawn=tuple(self.generated),
            penalised=request.prompt if request.sampling.repetition_penalty != 1.0 else (),
            adapter=adapter_of(request.salt),
            log_ids=request.log_ids(self.agent.id if self.agent is not None else None),
        )

    def read(self, count: int) -> tuple[tuple[int, ...], int | None]:
        """Plan to read `count` more tokens.

        Returns them, and the index of the token sampled after them if they end the prompt.
        """
        chunk = self.replay[self._read : self._read + count]
        self._read += count
        if self.unread:
            return chunk, None
        if not self.max_tokens:
            self.phase = Phase.READ
            return chunk, None
        self.phase = Phase.DECODING
        return chunk, self.draw()

    def draw(self) -> int:
        """Plan to sample the next token. Returns its index."""
        self._planned += 1
        return self._planned - 1

    def wait(self, seconds: float, limit: float) -> None:
        """Count seconds in which the device did nothing for a sequence.

        A background one is interactive after `limit` seconds.
        """
        self.waited_seconds += seconds
        self.is_background = self.is_background and self.waited_seconds < limit

    def preempt(self) -> None:
        """Wait again without a row: generated tokens are read back like a prompt, and sampling goes
        on where it stopped.
        """
        self.replay, self.run = self.request.prompt + tuple(self.generated), None
        self._read, self._planned = 0, len(self.generated)
        self.row, self.phase = -1, Phase.WAITING

    def accept(self, sampled: SampledToken) -> list[Event]:
        """Take a sampled token.

        Returns its events, the last of them `Finished` if it ends the sequence.
        """
        self.generated.append(sampled.token)
        # more than planned where drafts were accepted
        self._planned = max(self._planned, len(self.generated))
        ends_turn = sampled.token in self.request.stop_tokens
        text = "" if ends_turn else self._stops.push(self._decoder.push(sampled.token))
        events: list[Event] = [TokenEvent(sampled.token, text, sampled.logprob, sampled.top)]
        reason = self._reason_to_end(ends_turn)
        if reason is not None:
            events.append(self.finish(reason))
        return events

    def finish(self, reason: FinishReason) -> Finished:
        """End the sequence. Returns its last event, with the text that was held back."""
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
        return (
            FinishReason.MAX_TOKENS
            if self.max_tokens == self.request.max_tokens
            else FinishReason.CONTEXT_FULL
        )
