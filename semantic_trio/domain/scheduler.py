"""Which rows take part in the next step: the whole policy.

Knows sequences, rows and measured paces. Knows no clock, no arrays and no callers. `plan` and `commit` alternate, but a commit may answer an
earlier plan (the device looks one step ahead): tokens are matched by row, and rows are never numbered twice.
"""

import collections
from collections.abc import Iterable, Iterator

import attrs

from semantic_trio.domain.errors import PromptTooLongError
from semantic_trio.domain.generation import Event, GenerationRequest
from semantic_trio.domain.pace import DecodePace, PrefillPace
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.step import Chunk, Decode, RowStart, StepPlan, StepResult, StepTiming
from semantic_trio.domain.stopping import TextDecoder

# With nobody decoding, a chunk may take this many times the stall bound: only a newcomer or a cancellation waits for it.
UNDISTURBED = 4


@attrs.frozen
class Limits:
    """What bounds a step and a sequence."""

    context_length: int  # tokens, prompt and answer together
    max_rows: int
    chunk_tokens: int  # the largest piece of prompts read in one step
    max_stall_seconds: float  # how much longer than a pure decode step a step with prompts may be


@attrs.define
class Scheduler:
    """Admits, plans, commits, aborts."""

    limits: Limits
    prefill_pace: PrefillPace = attrs.field(factory=PrefillPace)
    decode_pace: DecodePace = attrs.field(factory=DecodePace)
    _waiting: collections.deque[Sequence] = attrs.field(init=False, factory=collections.deque)
    _rows: dict[int, Sequence] = attrs.field(init=False, factory=dict)  # in order of admission
    _to_close: list[int] = attrs.field(init=False, factory=list)
    _next_row: int = attrs.field(init=False, default=0)
    _in_flight: bool = attrs.field(init=False, default=False)
    _recent: collections.deque[frozenset[int]] = attrs.field(init=False, factory=lambda: collections.deque(maxlen=2))

    @property
    def waiting(self) -> int:
        """Sequences without a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with a row."""
        return len(self._rows)

    def room(self, request: GenerationRequest) -> int:
        """Tokens that can be generated for a request: its own limit or what its prompt leaves of the context.

        Raises `PromptTooLongError` when that is none.
        """
        room = self.limits.context_length - len(request.prompt)
        if room < 1:
            raise PromptTooLongError(tokens=len(request.prompt), limit=self.limits.context_length)
        return min(request.max_tokens, room)

    def add(self, request: GenerationRequest, decoder: TextDecoder) -> Sequence:
        """Queue a request. Raises as `room` does."""
        sequence = Sequence(request, self.room(request), decoder)
        self._waiting.append(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence; its row is closed with the next step. No effect on one that has finished."""
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        elif sequence.phase is not Phase.FINISHED:
            self._release(sequence)
        sequence.phase = Phase.FINISHED

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute, to close or to wait for."""
        opened = tuple(self._admit())
        decode = tuple(Decode(s.row, s.draw()) for s in self._rows.values() if s.wants_decode)
        plan = StepPlan(
            close=tuple(self._to_close),
            open=opened,
            decode=decode,
            prefill=tuple(self._chunks(beside=len(decode))),
        )
        self._to_close.clear()
        if not (plan.close or plan.has_work or self._in_flight):
            return None
        self._recent.append(frozenset(plan.rows))
        return plan

    def commit(self, result: StepResult) -> list[tuple[Sequence, Event]]:
        """Take what a step has drawn: the events for each sequence, in order. Tokens of rows that are gone are ignored."""
        self._in_flight = result.in_flight
        if result.timing is not None:
            self._learn(result.timing)
        events: list[tuple[Sequence, Event]] = []
        for drawn in result.drawn:
            sequence = self._rows.get(drawn.row)
            if sequence is None:
                continue
            events += [(sequence, event) for event in sequence.accept(drawn)]
            if sequence.phase is Phase.FINISHED:
                self._release(sequence)
        return events

    def expected_seconds(self, plan: StepPlan) -> float:
        """How long the step should take, as far as is known."""
        seconds = self.decode_pace.seconds(len(plan.decode))
        if self.prefill_pace.is_known:
            seconds += sum(len(c.tokens) * self.prefill_pace.seconds_per_token(c.context) for c in plan.prefill)
        return seconds

    def lose_rows(self) -> list[Sequence]:
        """The device lost every row: the sequences that took part in the last steps and are lost with it.

        Sequences that only held a row go back to the head of the queue, in their order.
        """
        took_part = frozenset().union(*self._recent)
        lost = [s for row, s in self._rows.items() if row in took_part]
        spared = [s for row, s in self._rows.items() if row not in took_part]
        for sequence in reversed(spared):
            self.preempt(sequence)
        for sequence in lost:
            self.abort(sequence)
        self._to_close.clear()
        self._recent.clear()
        self._in_flight = False
        return lost

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence's row away and put it at the head of the queue; what it has generated so far is kept."""
        self._release(sequence)
        sequence.preempt()
        self._waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        del self._rows[sequence.row]
        self._to_close.append(sequence.row)

    def _admit(self) -> Iterator[RowStart]:
        while self._waiting and len(self._rows) < self.limits.max_rows:
            sequence = self._waiting.popleft()
            sequence.start(self._next_row)
            self._rows[self._next_row] = sequence
            self._next_row += 1
            request = sequence.request
            yield RowStart(sequence.row, request.seed, request.sampling, request.forced)

    def _chunks(self, *, beside: int) -> Iterator[Chunk]:
        reading = [s for s in self._rows.values() if s.phase is Phase.PREFILLING]
        if not reading:
            return
        stall = self.limits.max_stall_seconds * (1 if beside else UNDISTURBED)
        context = sum(s.context for s in reading) // len(reading)
        budget = self.limits.chunk_tokens
        if beside or self.prefill_pace.is_known:
            budget = min(budget, self.prefill_pace.tokens_within(stall, context))
        for sequence, size in zip(reading, fair_shares(budget, [s.unread for s in reading]), strict=True):
            if size:
                before = sequence.context
                tokens, draws = sequence.read(size)
                yield Chunk(sequence.row, tokens, before, draws)

    def _learn(self, timing: StepTiming) -> None:
        if not timing.prefill_tokens:
            self.decode_pace.observe(timing.decode_rows, timing.seconds)
            return
        extra = timing.seconds - self.decode_pace.seconds(timing.decode_rows)
        self.prefill_pace.observe(timing.prefill_tokens, timing.prefill_context, extra)


def fair_shares(budget: int, wants: Iterable[int]) -> list[int]:
    """Divide `budget` so that nobody could get more without taking from one who has less (max-min fairness).

    Short prompts are read whole before long ones take the rest. Source: Bertsekas and Gallager, Data Networks, 6.5.2.
    """
    wanted = list(wants)
    shares = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for place, i in enumerate(order):
        shares[i] = min(wanted[i], -(-budget // (len(order) - place)))
        budget -= shares[i]
    return shares
