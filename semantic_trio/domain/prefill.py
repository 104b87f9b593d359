"""Prefill: how much of each prompt the next step reads, and the snapshots it takes.

Knows prompts, measured paces and the memory. Knows nothing of the queue.
"""

from collections.abc import Collection, Iterator

import attrs

from semantic_trio.domain.batch import Batch
from semantic_trio.domain.closing import Closings
from semantic_trio.domain.flight import SingleFlight
from semantic_trio.domain.generation import Event, FinishReason
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.pace import PrefillPace
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.shares import fair_shares
from semantic_trio.domain.step import Chunk, SaveSnapshot

# Factor of the stall bound for a chunk while no row decodes: only a new request or a cancellation
# waits for it.
UNDISTURBED = 4


@attrs.define(eq=False)
class Prefill:
    """Reads prompts in chunks."""

    chunk_tokens: int  # the most prompt tokens of one step
    max_stall_seconds: float  # by which chunks may lengthen a step of decoding rows
    memory: Memory
    batch: Batch
    flight: SingleFlight
    closings: Closings
    pace: PrefillPace
    # prompts that the current step leaves out for interactive ones
    held: list[Sequence] = attrs.field(init=False, factory=list)

    def chunks(self, reading: list[Sequence], *, disturbs: bool) -> Iterator[Chunk]:
        """Yield the next chunks of the prompts that are being read.

        A prompt that others wait for gets their shares too.

        Background prompts are left out while an interactive one is read, and their chunks are
        always small: an interactive request may come. `disturbs`: interactive rows decode in the
        same step or wait for their last token, or rows of another model decode on the same device.
        """
        interactive = [sequence for sequence in reading if not self.flight.is_background(sequence)]
        self.held = (
            [sequence for sequence in reading if sequence not in interactive] if interactive else []
        )
        disturbs, reading = disturbs or not interactive, interactive or reading
        if not reading:
            return
        shares = fair_shares(
            self._budget(reading, disturbs),
            [s.unread_to_snapshot for s in reading],
            [self.flight.weight(s) for s in reading],
        )
        for sequence, size in zip(reading, shares, strict=True):
            if size:
                before = sequence.context
                tokens, draws = sequence.read(size)
                yield Chunk(sequence.row, tokens, before, draws)

    def snapshots(self, chunks: tuple[Chunk, ...]) -> tuple[SaveSnapshot, ...]:
        """Order the snapshots at the positions where chunks end, as far as they are needed and
        there is memory for them.
        """
        ends = [(self.batch[chunk.row], chunk.context + len(chunk.tokens)) for chunk in chunks]
        rows = self.memory.rows
        ordered = [
            rows.snapshot(s.row, position, replaces=position in s.passing)
            for s, position in ends
            if position in s.snapshot_positions
        ]
        return tuple(snapshot for snapshot in ordered if snapshot is not None)

    def finish_read(self, in_flight: Collection[int]) -> Iterator[tuple[Sequence, Event]]:
        """Finish the sequences that only wanted their prompt read, once the pass that reads its end
        is over; rows `in_flight` are still in it.
        """
        for sequence in [
            one for one in self.batch.in_phase(Phase.READ) if one.row not in in_flight
        ]:
            self.closings.finish(sequence)
            yield sequence, sequence.finish(FinishReason.MAX_TOKENS)

    def _budget(self, reading: list[Sequence], disturbs: bool) -> int:
        """Return the prompt tokens of the next step.

        Before the first measurement only decoding neighbours bound them.
        """
        if not (disturbs or self.pace.is_known):
            return self.chunk_tokens
        stall = self.max_stall_seconds * (1 if disturbs else UNDISTURBED)
        context = sum(sequence.context for sequence in reading) // len(reading)
        return min(self.chunk_tokens, self.pace.tokens_within(stall, context))
