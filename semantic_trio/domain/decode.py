"""Decoding: which rows sample in the next step, with which drafts, and what becomes of sampled
tokens.

Knows rows, drafts and the memory that rows grow in. Knows nothing of prompts.
"""

from collections.abc import Iterable, Iterator

import attrs

from semantic_trio.domain.batch import Batch
from semantic_trio.domain.closing import Closings
from semantic_trio.domain.errors import GrammarError, PoolExhaustedError
from semantic_trio.domain.flight import SingleFlight
from semantic_trio.domain.generation import Event, Finished
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.queue import Queue
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.speculation import Speculation
from semantic_trio.domain.step import Decode, SampledToken


@attrs.define(eq=False)
class Decoding:
    """Samples the tokens of rows whose prompts are read."""

    memory: Memory
    queue: Queue
    batch: Batch
    flight: SingleFlight
    closings: Closings
    speculation: Speculation
    # preempted since the last commit: one more token may come
    _late: dict[int, Sequence] = attrs.field(init=False, factory=dict)
    # rows whose drafts the current step verifies
    _verifying: list[tuple[Sequence, Decode]] = attrs.field(init=False, factory=list)

    # ----------------------------------------------------------------------------------------- plan

    def grow(self) -> None:
        """Allocate memory for the next token of each row; if there is none, preempt the last row in
        order, or refuse it if it is alone.
        """
        for sequence in sorted(self.batch, key=self.flight.order):
            while sequence.row in self.batch and sequence.wants_decode:
                try:
                    self.memory.rows.grow(sequence.row, sequence.computed_tokens + 1)
                    break
                except PoolExhaustedError as error:
                    self._give_way(error)

    def decodes(self, decoding: Iterable[Sequence]) -> tuple[Decode, ...]:
        """Return the rows that sample in the next step, with their drafts."""
        sampling = [sequence for sequence in decoding if sequence.wants_decode]
        drafts = self.speculation.shared_out([self._drafts(sequence) for sequence in sampling])
        decodes = tuple(
            Decode(sequence.row, sequence.draw(), some)
            for sequence, some in zip(sampling, drafts, strict=True)
        )
        self._verifying = [
            (sequence, decode)
            for sequence, decode in zip(sampling, decodes, strict=True)
            if decode.drafts
        ]
        return decodes

    def preempt(self, sequence: Sequence) -> None:
        """Take the row of a sequence away.

        A token that the row has sampled already is still taken with the next commit.
        """
        self._late[sequence.row] = sequence
        self.closings.preempt(sequence)

    # --------------------------------------------------------------------------------------- commit

    def accept(self, sampled: tuple[SampledToken, ...]) -> Iterator[tuple[Sequence, Event]]:
        """Take sampled tokens.

        Yields the events of each sequence, in order; tokens of rows that are gone are ignored.
        """
        self._learn_drafts(sampled)
        for token in sampled:
            if token.row in self.batch:
                yield from self._accept(token)
            elif token.row in self._late:
                yield from self._accept_late(token)
        self._late.clear()

    def refuse_stuck(self, rows: Iterable[int]) -> None:
        """Refuse the sequences whose grammar cannot be evaluated any more."""
        for row in rows:
            if row in self.batch:
                self.closings.refuse(self.batch[row], GrammarError("its grammar is too complex"))

    def lose_rows(self) -> None:
        """Note that the device has lost all rows: no sampled token comes any more."""
        self._late.clear()
        self._verifying = []

    # -------------------------------------------------------------------------------------- private

    def _give_way(self, error: PoolExhaustedError) -> None:
        last = max(self.batch, key=self.flight.order)
        if len(self.batch) > 1:
            self.preempt(last)
        else:
            self.closings.refuse(last, error)

    def _drafts(self, sequence: Sequence) -> tuple[int, ...]:
        """Return the drafts of a row; none if there is no free memory for them."""
        if not self.speculation.is_on or sequence.most_drafts < 1:
            return ()
        drafts = sequence.lookup.propose(
            self.memory.rows.packed(sequence.row), sequence.pending_tokens, sequence.most_drafts
        )
        length = sequence.computed_tokens + 1 + len(drafts)
        if not drafts or not self.memory.rows.fits_freely(sequence.row, length):
            return ()
        self.memory.rows.grow(sequence.row, length)
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

    def _accept(self, sampled: SampledToken) -> Iterator[tuple[Sequence, Event]]:
        sequence = self.batch[sampled.row]
        self.memory.rows.extend(sampled.row, sampled.token)
        events = sequence.accept(sampled)
        if sequence.phase is Phase.FINISHED:
            self.closings.finish(sequence)
        yield from ((sequence, event) for event in events)

    def _accept_late(self, sampled: SampledToken) -> Iterator[tuple[Sequence, Event]]:
        """Take the token that a row had sampled when it was preempted.

        The row has a snapshot before that token, and a recurrent layer could begin nowhere else:
        the last token that is read again is computed.
        """
        sequence = self._late[sampled.row]
        if sequence.phase is not Phase.WAITING:
            return
        events = sequence.accept(sampled)
        if isinstance(events[-1], Finished):
            self.queue.remove(sequence)
            self.closings.leave(sequence)
        else:
            sequence.preempt()
        yield from ((sequence, event) for event in events)
