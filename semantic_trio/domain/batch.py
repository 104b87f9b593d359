"""The batch: the sequences that have a row.

Knows the rows by number. Knows nothing of memory or steps.
"""

from collections.abc import Iterator

import attrs

from semantic_trio.domain.sequence import Phase, Sequence


@attrs.define(eq=False)
class Batch:
    """Sequences with a row, in order of admission.

    No number is given to two rows, so a result of a row that is gone is recognised by its number.
    """

    next_row: int = attrs.field(init=False, default=0)  # number of the next row
    _sequences: dict[int, Sequence] = attrs.field(init=False, factory=dict)  # by row

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences.values())

    def __contains__(self, row: int) -> bool:
        return row in self._sequences

    def __getitem__(self, row: int) -> Sequence:
        return self._sequences[row]

    def in_phase(self, phase: Phase) -> list[Sequence]:
        """Return the sequences in a phase."""
        return [sequence for sequence in self if sequence.phase is phase]

    def known_tokens(self) -> dict[int, int]:
        """Return the tokens that each row has computed and whose ids have come."""
        return {sequence.row: sequence.known_tokens for sequence in self}

    def add(self, sequence: Sequence, restored: int) -> None:
        """Give a sequence the next row, whose cache begins with `restored` tokens."""
        sequence.start(self.next_row, restored)
        self._sequences[sequence.row] = sequence
        self.next_row += 1

    def remove(self, sequence: Sequence) -> None:
        """Take the row of a sequence away."""
        del self._sequences[sequence.row]

    def clear(self) -> None:
        """Take all rows away."""
        self._sequences.clear()
