"""The queue: the sequences that wait for a row.

Knows their order and that of each agent's turns. Knows nothing of memory.
"""

import collections
import itertools
from collections.abc import Iterator

import attrs

from semantic_trio.domain.sequence import Sequence


@attrs.define(eq=False)
class Queue:
    """Sequences without a row, interactive ones before background ones, each in order.

    Ordered turns of one agent run one after another.
    """

    _waiting: collections.deque[Sequence] = attrs.field(init=False, factory=collections.deque)
    # ordered turns that are not over, by agent
    _turns: dict[str, collections.deque[Sequence]] = attrs.field(init=False, factory=dict)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(sorted(self._waiting, key=lambda sequence: sequence.is_background))

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence.

        An ordered turn also joins the turns of its agent; an interactive one hurries those before
        it.
        """
        self._waiting.append(sequence)
        if sequence.request.is_ordered and sequence.request.agent:
            self._turns.setdefault(sequence.request.agent, collections.deque()).append(sequence)
        if not sequence.is_background:
            self.hurry(sequence)

    def hurry(self, sequence: Sequence) -> None:
        """Make a sequence interactive, and with an ordered turn those of its agent before it."""
        sequence.is_background = False
        turns = self._turns.get(sequence.request.agent or "", ())
        if sequence in turns:
            for earlier in itertools.takewhile(lambda turn: turn is not sequence, turns):
                earlier.is_background = False

    def put_back(self, sequence: Sequence) -> None:
        """Put a sequence that has lost its row at the head of its class."""
        self._waiting.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out of the queue: it gets a row, or is over.

        Its turn goes on until `end_turn`.
        """
        self._waiting.remove(sequence)

    def end_turn(self, sequence: Sequence) -> None:
        """Note that a sequence is over: the next ordered turn of its agent may begin."""
        agent = sequence.request.agent or ""
        turns = self._turns.get(agent)
        if turns is not None and sequence in turns:
            turns.remove(sequence)
            if not turns:
                del self._turns[agent]

    def is_out_of_turn(self, sequence: Sequence) -> bool:
        """True if an ordered turn of the same agent comes first."""
        turns = self._turns.get(sequence.request.agent or "")
        return sequence.request.is_ordered and turns is not None and turns[0] is not sequence
