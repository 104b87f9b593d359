"""Single flight: a prefix that several prompts share is computed once.

One sequence reads it, the others wait, and begin where the prompts part.

Knows sequences and the common prefixes of their prompts. Knows nothing of steps or budgets. A
waiter keeps its place in the queue and holds no row, so nothing has to be undone when its leader
goes: the waiter begins with the blocks that were published until then.
"""

from collections.abc import Iterable

import attrs

from semantic_trio.domain.memory import Memory
from semantic_trio.domain.prefix import Match
from semantic_trio.domain.sequence import Phase, Sequence

# Tokens. A waiter that would gain fewer computes them itself: waiting would take longer.
WORTH_WAITING = 32


@attrs.define
class SingleFlight:
    """The leaders of one plan and what their waiters lend them; built anew for every plan."""

    memory: Memory
    # rows whose prompts are being read
    _leaders: dict[int, Sequence] = attrs.field(init=False, factory=dict)
    _weights: dict[Sequence, int] = attrs.field(init=False, factory=dict)
    _ages: dict[Sequence, int] = attrs.field(init=False, factory=dict)
    # leaders that interactive sequences wait for
    _urgent: set[Sequence] = attrs.field(init=False, factory=set)
    _alike: dict[tuple[Sequence, int], int] = attrs.field(init=False, factory=dict)

    def begin(self, batch: Iterable[Sequence]) -> None:
        """Begin a plan: the rows that read prompts are the leaders."""
        self._leaders = {
            sequence.row: sequence for sequence in batch if sequence.phase is Phase.PREFILLING
        }
        self._weights.clear()
        self._ages.clear()
        self._urgent.clear()
        self._alike = {
            pair: alike for pair, alike in self._alike.items() if pair[1] in self._leaders
        }

    @property
    def has_leaders(self) -> bool:
        """True if there is a leader to wait for."""
        return bool(self._leaders)

    def add_leader(self, sequence: Sequence) -> None:
        """Make a sequence that got its row in this plan a leader."""
        self._leaders[sequence.row] = sequence

    def remove_leader(self, sequence: Sequence) -> None:
        """Note that a sequence has lost its row."""
        self._leaders.pop(sequence.row, None)

    def should_wait(self, sequence: Sequence, match: Match) -> bool:
        """True if a sequence gains by waiting for a leader, which then takes over the weight, the
        age and the priority of the sequence.
        """
        if not self._leaders:
            return False
        gain, leader = max(
            (
                (self._shared_prefix(sequence, one) - match.length, one)
                for one in self._leaders.values()
            ),
            key=lambda pair: pair[0],
        )
        if gain < WORTH_WAITING:
            return False
        self._weights[leader] = self.weight(leader) + 1
        self._ages[leader] = min(self.age(leader), sequence.arrival)
        if not sequence.is_background:
            self._urgent.add(leader)
        return True

    def weight(self, sequence: Sequence) -> int:
        """Return the number of sequences that a sequence reads for, itself included."""
        return self._weights.get(sequence, 1)

    def age(self, sequence: Sequence) -> int:
        """Return the arrival of the oldest sequence that a sequence reads for."""
        return self._ages.get(sequence, sequence.arrival)

    def order(self, sequence: Sequence) -> tuple[bool, int]:
        """Return the place of a row among those that claim memory: interactive rows come first, in
        each class the oldest.
        """
        return self.is_background(sequence), self.age(sequence)

    def is_background(self, sequence: Sequence) -> bool:
        """True if a background sequence reads for no interactive one."""
        return sequence.is_background and sequence not in self._urgent

    def _shared_prefix(self, sequence: Sequence, leader: Sequence) -> int:
        """Return the length of the prefix shared with a leader, 0 if the leader has read it
        already: then it can be matched now.
        """
        assert sequence.run is not None
        pair = (sequence, leader.row)
        if pair not in self._alike:
            self._alike[pair] = self.memory.rows.shared_prefix(sequence.run, leader.row)
        shared = min(self._alike[pair], len(sequence.run) - 1)
        if leader.context >= shared:
            return 0
        if self.memory.spec.needs_snapshots:
            leader.snapshot_positions.add(shared)
        return shared
