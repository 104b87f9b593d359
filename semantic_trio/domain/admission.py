"""Admission: which waiting sequences get a row, and what each row begins with.

Knows the queue, the batch and the memory. Knows nothing of what rows compute.
"""

import contextlib
from collections.abc import Callable, Iterator

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.batch import Batch
from semantic_trio.domain.chain import TokenRun
from semantic_trio.domain.closing import Closings
from semantic_trio.domain.entries import CacheEntry
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.flight import SingleFlight
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.prefix import NO_MATCH, Match
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.queue import Queue
from semantic_trio.domain.sequence import Sequence
from semantic_trio.domain.step import Restore, RowStart

# Tokens between snapshots of a long prompt.
SNAPSHOT_EVERY = 2048
# Loads from disk per sequence: other sequences may evict the loaded entries before its turn comes.
MAX_RECALLS = 3


@attrs.define(eq=False)
class Admission:
    """Moves sequences from the queue into the batch."""

    max_rows: int
    memory: Memory
    queue: Queue
    batch: Batch
    flight: SingleFlight
    closings: Closings
    preempt: Callable[[Sequence], None]
    # background rows that were taken away for interactive sequences
    preempted: int = attrs.field(init=False, default=0)
    # no row was opened or taken away in the plan that is being made
    _may_preempt: bool = attrs.field(init=False, default=True)

    def admit(self) -> tuple[RowStart, ...]:
        """Give rows to waiting sequences in their order, and refuse those that could never get one.

        Loads from disk are ordered for all of them.

        If there is no row or no memory for an interactive sequence, one background row is
        preempted.
        """
        self._prefetch()
        self._may_preempt = True
        self.flight.begin(self.batch)
        opened = tuple(self._opened())
        self.memory.await_entries(
            frozenset[CacheEntry]().union(*(sequence.awaited for sequence in self.queue))
        )
        return opened

    # ---------------------------------------------------------------------------------------- turns

    def _opened(self) -> Iterator[RowStart]:
        for sequence, match in self._candidates():
            try:
                start = self._open(sequence, match)
            except PoolExhaustedError as error:
                if self._preempts_for(sequence) or self._can_wait:
                    return
                self.closings.refuse(sequence, error)
            else:
                self.queue.remove(sequence)
                self._may_preempt = False
                yield start

    def _candidates(self) -> Iterator[tuple[Sequence, Match]]:
        """Yield the sequences that may begin, with their matches.

        While there are leaders all others are looked at too: waiters lend them weight.
        """
        for sequence in self._in_turn():
            if (
                self._is_full
                and not self.flight.has_leaders
                and self._preemptible_for(sequence) is None
            ):
                return
            try:
                match = self._ready(sequence)
            except PoolExhaustedError:
                self._preempts_for(sequence)
                # a sequence that waits for memory is not overtaken: others would take that memory
                # again and again
                return
            if match is not None and self._is_full and self._preempts_for(sequence):
                assert sequence.run is not None
                match = self.memory.match(sequence.run)  # not with the row that was taken away
            if match is not None and not self._is_full:
                yield sequence, match

    def _in_turn(self) -> Iterator[Sequence]:
        """Yield the waiting sequences in order.

        Sequences further behind cannot evict the entries loaded for those ahead.
        """
        awaited = frozenset[CacheEntry]()
        for sequence in list(self.queue):
            self.memory.await_entries(awaited)
            yield sequence
            awaited |= sequence.awaited
        self.memory.await_entries(awaited)

    def _ready(self, sequence: Sequence) -> Match | None:
        """Return the match that a waiting sequence would begin with; None while it waits for its
        agent, the disk or a leader.

        Raises `PoolExhaustedError` while it waits for memory.
        """
        assert sequence.run is not None, (
            "`_prefetch` has named the blocks of every waiting sequence"
        )
        if self.queue.is_out_of_turn(sequence) or self._recalls(sequence, sequence.run):
            return None
        match = self.memory.match(sequence.run)
        return None if self.flight.should_wait(sequence, match) else match

    # ------------------------------------------------------------------------------------- priority

    def _preempts_for(self, sequence: Sequence) -> bool:
        """Preempt the background row that has to give way to a sequence.

        Returns False if there is none.
        """
        background = self._preemptible_for(sequence)
        if background is None:
            return False
        self._may_preempt = False
        self.flight.remove_leader(background)
        self.preempt(background)
        self.preempted += 1
        return True

    def _preemptible_for(self, sequence: Sequence) -> Sequence | None:
        """Return the youngest background row if the sequence is interactive.

        A row that opens in the same plan might begin with that row's blocks.
        """
        if sequence.is_background or not self._may_preempt:
            return None
        return max(
            (one for one in self.batch if self.flight.is_background(one)),
            key=self.flight.age,
            default=None,
        )

    @property
    def _is_full(self) -> bool:
        return len(self.batch) >= self.max_rows

    @property
    def _can_wait(self) -> bool:
        """True if memory will be freed by itself: when a row ends, or a disk write or read
        completes.
        """
        return bool(self.batch or self.memory.disk.makes_room or self.memory.disk.reading)

    # ----------------------------------------------------------------------------------------- disk

    def _prefetch(self) -> None:
        """Order the loads of new sequences from disk, ahead of their turn."""
        for sequence in self._in_turn():
            if sequence.run is None:
                sequence.run = self.memory.run(sequence.replay, sequence.request.salt)
                with contextlib.suppress(PoolExhaustedError):  # tried again when its turn comes
                    self._recalls(sequence, sequence.run)

    def _recalls(self, sequence: Sequence, run: TokenRun) -> bool:
        """True if entries of a sequence are coming from disk.

        Raises `PoolExhaustedError` if there is no memory for them yet, but will be.
        """
        recalled = self.memory.recall(
            run, is_last_try=not self._can_wait, may_order=sequence.recalls < MAX_RECALLS
        )
        sequence.recalls += recalled.ordered > 0
        if recalled.coming:
            sequence.awaited = recalled.awaited
        return recalled.coming > 0

    # -------------------------------------------------------------------------------------- opening

    def _open(self, sequence: Sequence, match: Match) -> RowStart:
        """Open a row that begins with a match, or with nothing if the match leaves no memory for
        the rest of the prompt.

        Raises `PoolExhaustedError` if there is no memory for the row.
        """
        request, run = sequence.request, sequence.run
        assert run is not None
        agent, points = self._agent(sequence, run), _points(request)
        turn = self.memory.turn(agent, run, match, request.thinking, from_disk=sequence.recalls > 0)
        try:
            restore = self._allocate(run, agent, match, points)
        except PoolExhaustedError:
            if self._can_wait or not match.length:
                raise
            return self._open(sequence, NO_MATCH)
        if sequence.reuse is None:  # its first row
            sequence.reuse, agent.last_turn, agent.thinking = turn.reuse, turn, request.thinking
        self._begin(sequence, match.length, points)
        return sequence.row_start(restore)

    def _allocate(
        self, run: TokenRun, agent: Agent, match: Match, points: tuple[Breakpoint, ...]
    ) -> Restore | None:
        """Allocate the memory of the next row, so that each row that runs can grow by a block.

        Raises `PoolExhaustedError`.
        """
        headroom = len(self.batch) * self.memory.spec.block_bytes()
        return self.memory.rows.open(
            self.batch.next_row, run, agent, match, headroom, points, insists=not self._can_wait
        )

    def _begin(self, sequence: Sequence, restored: int, points: tuple[Breakpoint, ...]) -> None:
        """Put a sequence into the batch. Its row holds the first `restored` tokens."""
        self.batch.add(sequence, restored)
        if self.memory.spec.needs_snapshots and sequence.request.is_remembered:
            _set_snapshot_positions(sequence, {point.position for point in points})
        self.flight.add_leader(sequence)

    def _agent(self, sequence: Sequence, run: TokenRun) -> Agent:
        """Return the agent of a turn, chosen at the first try to open a row."""
        if sequence.agent is None:
            sequence.agent = self._chosen(sequence.request, run)
            sequence.agent.open_turns += 1
            sequence.agent.responses.update(sequence.request.responses)
        return sequence.agent

    def _chosen(self, request: GenerationRequest, run: TokenRun) -> Agent:
        """Return the agent of a turn whose client names none."""
        is_forgotten = not self.memory.forgotten.keys().isdisjoint(request.responses)
        if is_forgotten or request.is_private or not request.is_remembered:
            return self.memory.agents.unlisted(is_deleted=is_forgotten or not request.is_remembered)
        return self.memory.recognise(run)


def _points(request: GenerationRequest) -> tuple[Breakpoint, ...]:
    """Return the positions where other requests are likely to begin: the client's breakpoints, and
    the end of the head as one of five minutes.
    """
    return (
        *request.breakpoints,
        *(Breakpoint(position, Rank.MARKED) for position in request.boundaries),
    )


def _set_snapshot_positions(sequence: Sequence, points: set[int]) -> None:
    """Set the positions at which chunks of a prompt end: breakpoints, every `SNAPSHOT_EVERY`
    tokens, and before the last token.
    """
    length = len(sequence.replay)
    sequence.passing = {*range(SNAPSHOT_EVERY, length, SNAPSHOT_EVERY), length - 1} - points
    sequence.snapshot_positions = {
        position for position in points | sequence.passing if 0 < position < length
    }
