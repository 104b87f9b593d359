"""One prompt's beginning is computed once: whoever comes while another reads it waits for that, and then begins where both part.

Knows sequences and what their prompts have in common. Knows nothing of steps or budgets. A follower keeps its place in the queue and holds no row, so
nothing has to be undone when its leader goes: it finds what was published until then, and reads on itself.
"""

from collections.abc import Mapping

import attrs

from semantic_trio.domain.memory import Memory
from semantic_trio.domain.prefix import Match
from semantic_trio.domain.sequence import Phase, Sequence

# Tokens below which waiting for another costs more than computing them.
WORTH_WAITING = 32


@attrs.define
class SingleFlight:
    """Who follows whom, found anew for every plan."""

    memory: Memory
    _leaders: dict[int, Sequence] = attrs.field(init=False, factory=dict)  # rows whose prompts are being read
    _weights: dict[Sequence, int] = attrs.field(init=False, factory=dict)
    _ages: dict[Sequence, int] = attrs.field(init=False, factory=dict)
    _alike: dict[tuple[Sequence, int], int] = attrs.field(init=False, factory=dict)

    def begin(self, rows: Mapping[int, Sequence]) -> None:
        """Look at the rows as they are now."""
        self._leaders = {row: sequence for row, sequence in rows.items() if sequence.phase is Phase.PREFILLING}
        self._weights.clear()
        self._ages.clear()
        self._alike = {pair: alike for pair, alike in self._alike.items() if pair[1] in self._leaders}

    @property
    def has_leaders(self) -> bool:
        """Whether anybody could be followed."""
        return bool(self._leaders)

    def took_off(self, sequence: Sequence) -> None:
        """A sequence got its row in this plan: others may follow it."""
        self._leaders[sequence.row] = sequence

    def follows(self, sequence: Sequence, match: Match) -> bool:
        """Whether a sequence does better to wait for one that is being read; that one takes over its weight and its age."""
        if not self._leaders:
            return False
        gain, leader = max(((self._promise(sequence, one) - match.length, one) for one in self._leaders.values()), key=lambda pair: pair[0])
        if gain < WORTH_WAITING:
            return False
        self._weights[leader] = self.weight(leader) + 1
        self._ages[leader] = min(self.age(leader), sequence.arrival)
        return True

    def weight(self, sequence: Sequence) -> int:
        """How many a sequence reads for."""
        return self._weights.get(sequence, 1)

    def age(self, sequence: Sequence) -> int:
        """Arrival of the eldest a sequence reads for."""
        return self._ages.get(sequence, sequence.arrival)

    def _promise(self, sequence: Sequence, leader: Sequence) -> int:
        """Length a sequence could begin with when a leader has come so far; 0 when it has, for that is to be had already."""
        assert sequence.run is not None
        pair = (sequence, leader.row)
        if pair not in self._alike:
            self._alike[pair] = self.memory.promise(sequence.run, leader.row)
        shared = min(self._alike[pair], len(sequence.run) - 1)
        if leader.context >= shared:
            return 0
        if self.memory.spec.needs_snapshots:
            leader.snapshot_positions.add(shared)
        return shared
