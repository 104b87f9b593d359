"""The open work of the engine: generations that are not over, each with its sequence, and other
work on the device.

Knows what is open. Knows nothing of steps or of the inbox.
"""

import contextlib
from collections.abc import Iterator

import attrs
import trio

from semantic_trio.application.generation import Generation
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.sequence import Sequence


@attrs.define(eq=False)
class OpenWork:
    """The work that a drain waits for. Its length is the number of generations."""

    # generations by their sequences
    owners: dict[Sequence, Generation] = attrs.field(init=False, factory=dict)
    # None: still in the inbox
    _sequences: dict[Generation, Sequence | None] = attrs.field(init=False, factory=dict)
    # scopes of other work on the device
    _others: dict[trio.CancelScope, None] = attrs.field(init=False, factory=dict)
    _emptied: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def in_background(self) -> int:
        """Background generations."""
        return sum(
            generation.request.priority is Priority.BACKGROUND for generation in self._sequences
        )

    def __iter__(self) -> Iterator[Generation]:
        return iter(self._sequences)

    def __contains__(self, generation: Generation) -> bool:
        return generation in self._sequences

    def sequence(self, generation: Generation) -> Sequence | None:
        """Return the sequence of a generation; None if it is still in the inbox, or not open."""
        return self._sequences.get(generation)

    def add(self, generation: Generation) -> None:
        """Note that a generation was submitted."""
        self._sequences[generation] = None

    def begin(self, generation: Generation, sequence: Sequence) -> None:
        """Note that the scheduler has the sequence of a generation."""
        self._sequences[generation] = sequence
        self.owners[sequence] = generation

    def remove(self, generation: Generation) -> Sequence | None:
        """Note that a generation is over. Returns its sequence, if it was open and had one."""
        sequence = self._sequences.pop(generation, None)
        if sequence is not None:
            del self.owners[sequence]
        self._notify()
        return sequence

    @contextlib.contextmanager
    def other(self) -> Iterator[trio.CancelScope]:
        """Work on the device that is no generation, in a scope that `cancel_others` cancels."""
        with trio.CancelScope() as scope:
            self._others[scope] = None
            try:
                yield scope
            finally:
                del self._others[scope]
                self._notify()

    def cancel_others(self) -> None:
        """Cancel the work that is no generation."""
        for scope in self._others:
            scope.cancel()

    async def emptied(self) -> None:
        """Return when nothing is open."""
        while self._sequences or self._others:
            await self._emptied.wait()

    def _notify(self) -> None:
        if not (self._sequences or self._others):
            self._emptied.set()
            self._emptied = trio.Event()
