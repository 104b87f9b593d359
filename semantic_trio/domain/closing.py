"""Closing: how sequences end or lose their rows, and what of each row is kept.

Knows sequences, their rows and the memory. Knows nothing of steps that compute.
"""

from collections.abc import Iterable

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.batch import Batch
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Event, Failed
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.queue import Queue
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.step import RowClose, SaveBlock


@attrs.define(eq=False)
class Closings:
    """Rows to close with the next plan, the agents whose records follow, and sequences that were
    refused.
    """

    memory: Memory
    batch: Batch
    queue: Queue
    preemptions: int = attrs.field(init=False, default=0)
    _closings: list[RowClose] = attrs.field(init=False, factory=list)
    _agents: list[Agent] = attrs.field(init=False, factory=list)  # of the rows in `_closings`
    # of the rows that the last plan closes
    _planned_agents: list[Agent] = attrs.field(init=False, factory=list)
    _refused: list[tuple[Sequence, Event]] = attrs.field(init=False, factory=list)

    @property
    def is_empty(self) -> bool:
        """True if no row is to be closed."""
        return not self._closings

    def finish(self, sequence: Sequence) -> None:
        """Close the row of a sequence that has come to its end."""
        self._end_turn(sequence, has_ended=True)
        self.leave(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence before its end, with or without a row.

        The tokens it has read stay cached.
        """
        if sequence.phase is Phase.WAITING:
            self.queue.remove(sequence)
        else:
            self._end_turn(sequence, has_ended=False)
        self.leave(sequence)

    def refuse(self, sequence: Sequence, error: SemanticError) -> None:
        """Cancel a sequence, and note the reason for its client."""
        self.cancel(sequence)
        self._refused.append((sequence, Failed(error)))

    def leave(self, sequence: Sequence) -> None:
        """Note that a sequence without a row is over."""
        sequence.phase = Phase.FINISHED
        if sequence.agent is not None:
            self.memory.leave(sequence.agent)
        self.queue.end_turn(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take the row of a sequence away and put the sequence at the head of its class in the
        queue, with the tokens it has read and generated.
        """
        self.memory.rows.publish(sequence.row, sequence.known_tokens)
        self._close(sequence, has_ended=False)
        sequence.preempt()
        self.queue.put_back(sequence)
        self.preemptions += 1

    def close_unknown(self, rows: Iterable[int]) -> None:
        """Close rows of the device that no sequence has."""
        self._closings += [RowClose(row) for row in sorted(rows)]

    def take(self) -> tuple[RowClose, ...]:
        """Return the rows to close, for the plan that is being made."""
        closings, self._closings = tuple(self._closings), []
        self._planned_agents, self._agents = self._agents, []
        return closings

    def carried_out(self) -> None:
        """Have the records of agents written whose rows the last plan has closed: the device has
        stored what these rows held.
        """
        self.memory.write_closed(self._planned_agents)
        self._planned_agents = []

    def take_refused(self) -> list[tuple[Sequence, Event]]:
        """Return the sequences that were refused since the last call, with their events."""
        refused, self._refused = self._refused, []
        return refused

    def lose_rows(self, planned: Iterable[RowClose]) -> tuple[SaveBlock, ...]:
        """Note that the device has lost all rows, and may not have carried out the closings that
        were `planned`.

        Returns the blocks to save of these.

        The records of the agents of all rows are written with `recovered`.
        """
        saves = tuple(save for closing in (*self._closings, *planned) for save in closing.blocks)
        self._agents = [
            *self._planned_agents,
            *self._agents,
            *(sequence.agent for sequence in self.batch if sequence.agent is not None),
        ]
        self._closings, self._planned_agents = [], []
        return saves

    def recovered(self) -> None:
        """Have the records of agents written whose rows were lost: the device has stored what could
        be saved of these rows.
        """
        self.memory.write_closed(self._agents)
        self._agents = []

    def _end_turn(self, sequence: Sequence, *, has_ended: bool) -> None:
        """Close the row of a sequence; the tokens it has read become the history of its agent."""
        self.memory.rows.publish(sequence.row, sequence.known_tokens)
        if sequence.known_tokens:
            request = sequence.request
            self.memory.rows.remember(
                sequence.row,
                self.memory.run(request.prompt, request.salt),
                request.salt,
                has_ended=has_ended,
            )
        self._close(sequence, has_ended=has_ended)
        if sequence.agent is not None and (has_ended or not self.memory.disk.is_sparing):
            self._agents.append(sequence.agent)

    def _close(self, sequence: Sequence, *, has_ended: bool) -> None:
        self._closings.append(
            self.memory.rows.close(
                sequence.row,
                sequence.computed_tokens,
                sequence.request.breakpoints,
                has_ended=has_ended,
            )
        )
        self.batch.remove(sequence)
