"""The scheduler: which rows take part in the next step, and what each of them computes.

Knows sequences, rows, measured paces, and the memory they begin with. Knows no clock, no arrays and no callers. `plan` and `commit` alternate, but
a commit may answer an earlier plan (the device looks one step ahead): tokens are matched by row, and rows are never numbered twice.
"""

import collections
import contextlib
from collections.abc import Iterable, Iterator

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import TokenRun
from semantic_trio.domain.conversation import Breakpoint
from semantic_trio.domain.entries import CacheEntry
from semantic_trio.domain.errors import GrammarError, PoolExhaustedError, PromptTooLongError, SemanticError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.flight import SingleFlight
from semantic_trio.domain.generation import Event, Failed, Finished, FinishReason, GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.pace import DecodePace, PrefillPace
from semantic_trio.domain.prefix import NO_MATCH, Match
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.shares import fair_shares
from semantic_trio.domain.speculation import Speculation
from semantic_trio.domain.step import (
    Chunk,
    Closing,
    Decode,
    Inventory,
    RowStart,
    SampledToken,
    SaveBlock,
    SaveSnapshot,
    SnapshotKey,
    StepPlan,
    StepResult,
    StepTiming,
)
from semantic_trio.domain.stopping import TextDecoder

# Factor of the stall bound for a chunk while no row decodes: only a new request or a cancellation waits for it.
UNDISTURBED = 4
# Tokens between snapshots of a long prompt.
SNAPSHOT_EVERY = 2048
# Loads from disk per sequence: other sequences may evict the loaded entries before its turn comes.
MAX_RECALLS = 3


@attrs.frozen
class Limits:
    """Bounds of a step and of a sequence."""

    context_length: int  # tokens, prompt and answer together
    max_rows: int
    chunk_tokens: int  # the largest piece of prompts read in one step
    max_stall_seconds: float  # by which a step with prompts may be longer than one that only decodes


@attrs.frozen
class _Passed:
    """A plan that was returned: tokens its rows had read before, and the snapshots and closings in it."""

    read: dict[int, int]
    snapshots: tuple[SnapshotKey, ...]
    closing: tuple[Closing, ...]


@attrs.define
class Scheduler:
    """Sequences with and without a row: admits, plans, commits and aborts them."""

    limits: Limits
    memory: Memory
    speculation: Speculation = attrs.field(factory=Speculation)
    prefill_pace: PrefillPace = attrs.field(factory=PrefillPace)
    decode_pace: DecodePace = attrs.field(factory=DecodePace)
    preemptions: int = attrs.field(init=False, default=0)
    _waiting: collections.deque[Sequence] = attrs.field(init=False, factory=collections.deque)
    _rows: dict[int, Sequence] = attrs.field(init=False, factory=dict)  # in order of admission
    _flight: SingleFlight = attrs.field(init=False)
    _in_order: dict[str, collections.deque[Sequence]] = attrs.field(init=False, factory=dict)  # ordered turns that are not over, by agent
    _refused: list[tuple[Sequence, Event]] = attrs.field(init=False, factory=list)
    _to_write: list[Agent] = attrs.field(init=False, factory=list)  # agents of the rows in `_to_close`
    _closing: list[Agent] = attrs.field(init=False, factory=list)  # agents of the rows that the last plan closes
    _to_close: list[Closing] = attrs.field(init=False, factory=list)
    _late: dict[int, Sequence] = attrs.field(init=False, factory=dict)  # preempted since the last commit: one more token may come
    _verifying: list[tuple[Sequence, Decode]] = attrs.field(init=False, factory=list)  # rows whose drafts the current step verifies
    _next_row: int = attrs.field(init=False, default=0)
    _arrivals: int = attrs.field(init=False, default=0)
    _in_flight: bool = attrs.field(init=False, default=False)
    _recent: collections.deque[_Passed] = attrs.field(init=False, factory=lambda: collections.deque(maxlen=2))

    def __attrs_post_init__(self) -> None:
        self._flight = SingleFlight(self.memory)

    @property
    def waiting(self) -> int:
        """Sequences without a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with a row."""
        return len(self._rows)

    @property
    def rows(self) -> tuple[Sequence, ...]:
        """Sequences with a row, in order of admission."""
        return tuple(self._rows.values())

    @property
    def is_idle(self) -> bool:
        """True if the device has carried out every order, and no sequence waits or runs."""
        busy = self._rows or self._waiting or self._to_close or self._in_flight
        return self.memory.is_idle and not busy

    def remaining_tokens(self, request: GenerationRequest) -> int:
        """Return the tokens that can be generated for a request: its limit, or fewer if context or KV cache end before.

        Raises `PromptTooLongError` or `PoolExhaustedError` if there are none.
        """
        tokens = len(request.prompt)
        in_context = self.limits.context_length - tokens
        if in_context < 1:
            raise PromptTooLongError(tokens=tokens, limit=self.limits.context_length)
        fits = self.memory.longest_row - tokens
        if fits < 1:
            total = self.memory.budget_bytes
            raise PoolExhaustedError(wanted=self.memory.row_bytes(tokens + 1), free=total, total=total)
        return min(request.max_tokens, in_context, fits)

    def add(self, request: GenerationRequest, decoder: TextDecoder, asker: Agent | None = None) -> Sequence:
        """Queue a request. Without `asker` the agent is recognised by the prompt. Raises as `remaining_tokens` does."""
        self._arrivals += 1
        if not self.memory.forgotten.keys().isdisjoint(request.responses):
            asker = self.memory.agents.unlisted(is_deleted=True)
        sequence = Sequence(request, self.remaining_tokens(request), decoder, self._arrivals, asker)
        if asker is not None:
            asker.asked += 1
            asker.responses.update(request.responses)
        self._waiting.append(sequence)
        if request.is_ordered and request.agent:
            self._in_order.setdefault(request.agent, collections.deque()).append(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Cancel a sequence. The next step closes its row; the tokens it has read stay cached. A finished sequence is left as it is."""
        if sequence.phase is Phase.FINISHED:
            return
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        else:
            self._end_turn(sequence, has_ended=False)
        self._is_over(sequence)

    def plan(self) -> StepPlan | None:
        """Return the next step; None if there is nothing to compute, to close or to wait for."""
        self._grow()
        self._prefetch()
        opened = tuple(self._admit())
        self.memory.await_entries(frozenset[CacheEntry]().union(*(sequence.awaited for sequence in self._waiting)))
        read = {row: sequence.known_tokens for row, sequence in self._rows.items()}
        decode = self._decodes()
        prefill = tuple(self._chunks())
        snapshots = self._publish(prefill)
        closing, self._to_close = tuple(self._to_close), []
        self._closing, self._to_write = self._to_write, []
        drop_blocks, drop_snapshots = self.memory.take_drops()
        plan = StepPlan(closing, drop_blocks, drop_snapshots, opened, decode, prefill, snapshots)
        if not (plan.has_errands or plan.has_work or self._in_flight):
            return None
        took_part = {row: read[row] for row in plan.rows}
        self._recent.append(_Passed(took_part, tuple(snapshot.key for snapshot in snapshots), closing))
        return plan

    def commit(self, result: StepResult) -> list[tuple[Sequence, Event]]:
        """Take the tokens that a step has sampled. Returns the events of each sequence, in order; tokens of rows that are gone are ignored."""
        self._in_flight = result.in_flight
        self.memory.write_closed(self._closing)
        self._closing = []
        if result.timing is not None:
            self._learn(result.timing)
        self._learn_drafts(result.sampled)
        events: list[tuple[Sequence, Event]] = []
        for sampled in result.sampled:
            if sampled.row in self._rows:
                events += self._accept(sampled)
            elif sampled.row in self._late:
                events += self._accept_late(sampled)
        self._late.clear()
        self._refuse_stuck(result.stuck)
        return events + self._read_only()

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the block states agree with the inventory of an idle device. The next plan closes rows that no sequence has.

        Returns one line for each difference.
        """
        self._to_close += [Closing(row) for row in sorted(inventory.rows)]
        return self.memory.reconcile(inventory)

    def refused(self) -> list[tuple[Sequence, Event]]:
        """Return the sequences that were refused since the last call, for want of memory or of a token that the grammar allows, with their events."""
        refused, self._refused = self._refused, []
        return refused

    def expected_seconds(self, plan: StepPlan) -> float:
        """Return the estimated duration of a step."""
        seconds = self.decode_pace.seconds(plan.decode_tokens)
        if plan.prefill:
            seconds += self.prefill_pace.seconds(plan.prompt_tokens, plan.prefill_context)
        return seconds

    def lose_rows(self) -> tuple[list[Sequence], tuple[SaveBlock, ...]]:
        """Take all rows away after the device has lost them. Returns the sequences that took part in the last steps, and the blocks to save.

        Other sequences with a row go back to the head of the queue, in their order.
        """
        read = {row: sequence.known_tokens for row, sequence in self._rows.items()}
        for passed in reversed(self._recent):
            read |= {row: count for row, count in passed.read.items() if row in self._rows}
        took_part = frozenset[int]().union(*(passed.read for passed in self._recent))
        closing = [*self._to_close, *(closing for passed in self._recent for closing in passed.closing)]
        saves = tuple(save for one in closing for save in one.blocks)
        saves += self.memory.close_all(read, {key for passed in self._recent for key in passed.snapshots})
        self._to_write = [*self._closing, *self._to_write, *(s.agent for s in self._rows.values() if s.agent is not None)]
        lost = [s for row, s in self._rows.items() if row in took_part]
        spared = [s for row, s in self._rows.items() if row not in took_part]
        self._rows.clear()
        for sequence in reversed(spared):
            sequence.preempt()
            self._waiting.appendleft(sequence)
        for sequence in lost:
            self._is_over(sequence)
        self._to_close, self._in_flight = [], False
        self._recent.clear()
        self._late.clear()
        self._closing, self._verifying = [], []
        return lost, saves

    def recovered(self, inventory: Inventory) -> None:
        """Take the inventory of a device that was reset. Blocks saved from lost rows are written as those of closed rows are."""
        self.memory.reconcile(inventory)
        self.memory.write_closed(self._to_write)
        self._to_write = []

    def preempt(self, sequence: Sequence) -> None:
        """Take the row of a sequence away and put the sequence at the head of the queue, with the tokens it has read and generated."""
        self._late[sequence.row] = sequence
        self.memory.publish(sequence.row, sequence.known_tokens)
        self._close(sequence, has_ended=False)
        sequence.preempt()
        self._waiting.appendleft(sequence)
        self.preemptions += 1

    # ------------------------------------------------------------------------------------------------------------------- rows

    def _admit(self) -> Iterator[RowStart]:
        self._flight.begin(self._rows)
        for sequence, match in self._candidates():
            try:
                start = self._open(sequence, match)
            except PoolExhaustedError as error:
                if self._can_wait:
                    return
                self._refuse(sequence, error)
            else:
                self._waiting.remove(sequence)
                yield start

    def _candidates(self) -> Iterator[tuple[Sequence, Match]]:
        """Yield the sequences that may begin, with their matches. While there are leaders all others are looked at too: waiters lend them weight."""
        for sequence in self._in_turn():
            if self._is_full and not self._flight.has_leaders:
                return
            try:
                match = self._ready(sequence)
            except PoolExhaustedError:
                return  # a sequence that waits for memory is not overtaken: others would take that memory again and again
            if match is not None and not self._is_full:
                yield sequence, match

    def _prefetch(self) -> None:
        """Order the loads of new sequences from disk, ahead of their turn."""
        for sequence in self._in_turn():
            if sequence.run is None:
                sequence.run = self.memory.run(sequence.replay, sequence.request.salt)
                with contextlib.suppress(PoolExhaustedError):  # tried again when its turn comes
                    self._recalls(sequence, sequence.run)

    def _in_turn(self) -> Iterator[Sequence]:
        """Yield the waiting sequences in order. Sequences further behind cannot evict the entries loaded for those ahead."""
        awaited = frozenset[CacheEntry]()
        for sequence in list(self._waiting):
            self.memory.await_entries(awaited)
            yield sequence
            awaited |= sequence.awaited
        self.memory.await_entries(awaited)

    def _recalls(self, sequence: Sequence, run: TokenRun) -> bool:
        """True if entries of a sequence are coming from disk. Raises `PoolExhaustedError` if there is no memory for them yet, but will be."""
        recalled = self.memory.recall(run, is_last_try=not self._can_wait, may_order=sequence.recalls < MAX_RECALLS)
        sequence.recalls += recalled.ordered > 0
        if recalled.coming:
            sequence.awaited = recalled.awaited
        return recalled.coming > 0

    @property
    def _can_wait(self) -> bool:
        """True if memory will be freed by itself: when a row ends, or a disk write or read completes."""
        return bool(self._rows or self.memory.disk.makes_room or self.memory.disk.reading)

    @property
    def _is_full(self) -> bool:
        return len(self._rows) >= self.limits.max_rows

    def _ready(self, sequence: Sequence) -> Match | None:
        """Return the match that a waiting sequence would begin with; None while it waits for its agent, the disk or a leader.

        Raises `PoolExhaustedError` while it waits for memory.
        """
        assert sequence.run is not None, "`_prefetch` has named the blocks of every waiting sequence"
        if self._is_out_of_turn(sequence) or self._recalls(sequence, sequence.run):
            return None
        match = self.memory.match(sequence.run)
        return None if self._flight.should_wait(sequence, match) else match

    def _open(self, sequence: Sequence, match: Match) -> RowStart:
        request, run, row = sequence.request, sequence.run, self._next_row
        assert run is not None
        agent = self._agent(sequence, run)
        turn = self.memory.turn(agent, run, match, request.thinking, from_disk=sequence.recalls > 0)
        points = _points(request)
        try:
            headroom = len(self._rows) * self.memory.spec.block_bytes()
            restore = self.memory.open(row, run, agent, match, headroom, points, insists=not self._can_wait)
        except PoolExhaustedError:
            if self._can_wait or not match.length:
                raise
            return self._open(sequence, NO_MATCH)  # the match leaves no memory for the rest of the prompt
        if sequence.reuse is None:
            sequence.reuse, agent.last_turn, agent.thinking = turn.reuse, turn, request.thinking
        sequence.start(row, match.length)
        if self.memory.spec.needs_snapshots and request.is_remembered:
            self._set_snapshot_positions(sequence, {point.position for point in points})
        self._rows[row] = sequence
        self._next_row += 1
        self._flight.add_leader(sequence)
        return RowStart(
            row,
            request.seed,
            request.sampling,
            request.forced,
            restore,
            steering=request.steering,
            grammar=request.grammar,
            top_logprobs=request.top_logprobs,
            drawn=tuple(sequence.generated),
            penalised=request.prompt if request.sampling.repetition_penalty != 1.0 else (),
        )

    def _agent(self, sequence: Sequence, run: TokenRun) -> Agent:
        """Return the agent of a turn, chosen at the first try to open a row."""
        if sequence.agent is None:
            sequence.agent = self._chosen(sequence.request, run)
            sequence.agent.asked += 1
            sequence.agent.responses.update(sequence.request.responses)
        return sequence.agent

    def _chosen(self, request: GenerationRequest, run: TokenRun) -> Agent:
        """Return the agent of a turn whose client names none."""
        is_forgotten = not self.memory.forgotten.keys().isdisjoint(request.responses)
        if is_forgotten or request.is_private or not request.is_remembered:
            return self.memory.agents.unlisted(is_deleted=is_forgotten or not request.is_remembered)
        return self.memory.recognise(run)

    def _set_snapshot_positions(self, sequence: Sequence, points: set[int]) -> None:
        """Set the positions at which chunks of a prompt end: breakpoints, every `SNAPSHOT_EVERY` tokens, and before the last token."""
        length = len(sequence.replay)
        sequence.passing = {*range(SNAPSHOT_EVERY, length, SNAPSHOT_EVERY), length - 1} - points
        sequence.snapshot_positions = {position for position in points | sequence.passing if 0 < position < length}

    def _is_out_of_turn(self, sequence: Sequence) -> bool:
        line = self._in_order.get(sequence.request.agent or "")
        return sequence.request.is_ordered and line is not None and line[0] is not sequence

    def _is_over(self, sequence: Sequence) -> None:
        sequence.phase = Phase.FINISHED
        if sequence.agent is not None:
            self.memory.leave(sequence.agent)
        line = self._in_order.get(sequence.request.agent or "")
        if line is not None and sequence in line:
            line.remove(sequence)
            if not line:
                del self._in_order[sequence.request.agent or ""]

    def _refuse(self, sequence: Sequence, error: SemanticError) -> None:
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        else:
            self._end_turn(sequence, has_ended=False)
        self._is_over(sequence)
        self._refused.append((sequence, Failed(error)))

    def _refuse_stuck(self, rows: tuple[int, ...]) -> None:
        for row in rows:
            if row in self._rows:
                self._refuse(self._rows[row], GrammarError("its grammar is too complex"))

    def _end_turn(self, sequence: Sequence, *, has_ended: bool) -> None:
        """Close the row of a sequence; the tokens it has read become the history of its agent."""
        self.memory.publish(sequence.row, sequence.known_tokens)
        if sequence.known_tokens:
            request = sequence.request
            self.memory.remember(sequence.row, self.memory.run(request.prompt, request.salt), request.salt, has_ended=has_ended)
        self._close(sequence, has_ended=has_ended)
        if sequence.agent is not None and (has_ended or not self.memory.disk.is_sparing):
            self._to_write.append(sequence.agent)

    def _close(self, sequence: Sequence, *, has_ended: bool) -> None:
        self._to_close.append(self.memory.close(sequence.row, sequence.computed_tokens, sequence.request.breakpoints, has_ended=has_ended))
        del self._rows[sequence.row]

    def _grow(self) -> None:
        """Allocate memory for the next token of each row; if there is none, preempt the youngest row."""
        for sequence in sorted(self._rows.values(), key=self._flight.age):
            while sequence.row in self._rows and sequence.wants_decode:
                try:
                    self.memory.grow(sequence.row, sequence.computed_tokens + 1)
                    break
                except PoolExhaustedError as error:
                    self._give_way(error)

    def _give_way(self, error: PoolExhaustedError) -> None:
        youngest = max(self._rows.values(), key=self._flight.age)
        if len(self._rows) > 1:
            self.preempt(youngest)
        else:
            self._refuse(youngest, error)

    # ------------------------------------------------------------------------------------------------------------------- steps

    def _decodes(self) -> tuple[Decode, ...]:
        """Return the rows that sample in the next step, with their drafts."""
        decoding = [sequence for sequence in self._rows.values() if sequence.wants_decode]
        drafts = self.speculation.shared_out([self._drafts(sequence) for sequence in decoding])
        decodes = tuple(Decode(sequence.row, sequence.draw(), some) for sequence, some in zip(decoding, drafts, strict=True))
        self._verifying = [(sequence, decode) for sequence, decode in zip(decoding, decodes, strict=True) if decode.drafts]
        return decodes

    def _drafts(self, sequence: Sequence) -> tuple[int, ...]:
        """Return the drafts of a row; none if there is no free memory for them."""
        if not self.speculation.is_on or sequence.most_drafts < 1:
            return ()
        drafts = sequence.lookup.propose(self.memory.packed(sequence.row), sequence.pending_tokens, sequence.most_drafts)
        length = sequence.computed_tokens + 1 + len(drafts)
        if not drafts or not self.memory.fits_freely(sequence.row, length):
            return ()
        self.memory.grow(sequence.row, length)
        return drafts

    def _learn_drafts(self, sampled: Iterable[SampledToken]) -> None:
        """Count the accepted drafts of each row: the tokens it has sampled beyond the first."""
        last = {one.row: one.index for one in sampled} if self._verifying else {}
        for sequence, decode in self._verifying:
            accepted = last.get(decode.row, decode.draws) - decode.draws
            self.speculation.drafted += len(decode.drafts)
            self.speculation.accepted += accepted
            tokens = len(sequence.request.prompt) + len(sequence.generated)
            sequence.lookup.verified(len(decode.drafts), accepted, tokens, self.speculation.most)
        self._verifying = []

    def _chunks(self) -> Iterator[Chunk]:
        reading = [s for s in self._rows.values() if s.phase is Phase.PREFILLING]
        if not reading:
            return
        disturbs = any(s.phase is Phase.DECODING for s in self._rows.values())  # also those whose last token is on its way
        stall = self.limits.max_stall_seconds * (1 if disturbs else UNDISTURBED)
        context = sum(s.context for s in reading) // len(reading)
        budget = self.limits.chunk_tokens
        if disturbs or self.prefill_pace.is_known:
            budget = min(budget, self.prefill_pace.tokens_within(stall, context))
        shares = fair_shares(budget, [s.unread_to_snapshot for s in reading], [self._flight.weight(s) for s in reading])
        for sequence, size in zip(reading, shares, strict=True):
            if size:
                before = sequence.context
                tokens, draws = sequence.read(size)
                yield Chunk(sequence.row, tokens, before, draws)

    def _publish(self, prefill: tuple[Chunk, ...]) -> tuple[SaveSnapshot, ...]:
        """Publish the tokens that rows will have read, and order the snapshots at which chunks end."""
        for sequence in self._rows.values():
            self.memory.publish(sequence.row, sequence.known_tokens)
        ends = [(self._rows[chunk.row], chunk.context + len(chunk.tokens)) for chunk in prefill]
        snapshots = [
            self.memory.snapshot(s.row, position, replaces=position in s.passing) for s, position in ends if position in s.snapshot_positions
        ]
        return tuple(snapshot for snapshot in snapshots if snapshot is not None)

    def _accept(self, sampled: SampledToken) -> list[tuple[Sequence, Event]]:
        sequence = self._rows[sampled.row]
        self.memory.extend(sampled.row, sampled.token)
        events = sequence.accept(sampled)
        if sequence.phase is Phase.FINISHED:
            self._end_turn(sequence, has_ended=True)
            self._is_over(sequence)
        return [(sequence, event) for event in events]

    def _accept_late(self, sampled: SampledToken) -> list[tuple[Sequence, Event]]:
        """Take the token that a row had sampled when it was preempted.

        The row has a snapshot before that token, and a recurrent layer could begin nowhere else: the last token that is read again is computed.
        """
        sequence = self._late[sampled.row]
        if sequence.phase is not Phase.WAITING:
            return []
        events = sequence.accept(sampled)
        if isinstance(events[-1], Finished):
            self._waiting.remove(sequence)
            self._is_over(sequence)
        else:
            sequence.preempt()
        return [(sequence, event) for event in events]

    def _read_only(self) -> list[tuple[Sequence, Event]]:
        """Finish the sequences that only wanted their prompt read, once the pass that reads its end is over."""
        events: list[tuple[Sequence, Event]] = []
        in_flight = self._recent[-1].read if self._in_flight else {}
        for sequence in [s for s in self._rows.values() if s.phase is Phase.READ and s.row not in in_flight]:
            self._end_turn(sequence, has_ended=True)
            self._is_over(sequence)
            events.append((sequence, sequence.finish(FinishReason.MAX_TOKENS)))
        return events

    def _learn(self, timing: StepTiming) -> None:
        if not timing.prefill_tokens:
            self.decode_pace.observe(timing.decode_tokens, timing.seconds)
            return
        extra = timing.seconds - self.decode_pace.seconds(timing.decode_tokens)
        self.prefill_pace.observe(timing.prefill_tokens, timing.prefill_context, extra)


def _points(request: GenerationRequest) -> tuple[Breakpoint, ...]:
    """Return the positions where other requests are likely to begin: the client's breakpoints, and the end of the head as one of five minutes."""
    return (*request.breakpoints, *(Breakpoint(position, Rank.MARKED) for position in request.boundaries))
