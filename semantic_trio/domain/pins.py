"""What is kept whatever happens, and how much that may be.

Knows agents' blocks and marks by their sizes. Knows nothing of rows, prompts or of what goes for want of room.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import TOKEN_BYTES
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.prefix import Block, Mark
from semantic_trio.domain.store import Store

# Pins may take this part of the budget, and of what marks may take: the rest has to go on serving.
PINS_SHARE = 0.5


@attrs.define(eq=False)
class Pins:
    """The pins of all agents. What several of them pin is counted once."""

    store: Store
    bytes: int = attrs.field(init=False, default=0)  # of blocks and marks
    marks_bytes: int = attrs.field(init=False, default=0)

    def pin(self, agent: Agent, chain: Sequence[Block]) -> None:
        """Keep a history whatever happens: `chain` are its blocks.

        Raises `PoolExhaustedError` where pins would take more than half of the budget, or pinned marks more than half of what marks may take.
        """
        marks = self._more_for(self._last_mark(agent, chain))
        blocks = sum(self.store.ledger.size(block) for block in chain if not block.pins)
        for wanted, free in ((blocks + marks, self._free), (marks, self._free_for_marks)):
            if wanted > free:
                raise PoolExhaustedError(wanted=wanted, free=free, total=self.store.budget_bytes)
        self.pin_what_fits(agent, chain)

    def pin_what_fits(self, agent: Agent, chain: Sequence[Block]) -> None:
        """Keep as much of a history as pins may take, from its beginning on and with room for its mark."""
        self.unpin(agent)
        agent.is_pinned = True
        reserved = self._more_for(self._last_mark(agent, chain))
        for block in chain:
            more = 0 if block.pins else self.store.ledger.size(block)
            if more + reserved > self._free:
                break
            self.store.ledger.pin(block)
            self.bytes += more
            agent.pinned.append(block)
        self._pin_mark(agent)

    def unpin(self, agent: Agent) -> None:
        """Let a history be given up again."""
        for block in reversed(agent.pinned):  # the end goes first
            self.store.ledger.unpin(block)
            if not block.pins:
                self.bytes -= self.store.ledger.size(block)
        if agent.pinned_mark is not None:
            self.store.ledger.unpin(agent.pinned_mark)
            self._count_mark(-self._more_for(agent.pinned_mark))
        agent.pinned, agent.pinned_mark, agent.is_pinned = [], None, False

    @property
    def _free(self) -> int:
        return int(self.store.budget_bytes * PINS_SHARE) - self.bytes

    @property
    def _free_for_marks(self) -> int:
        return int(self.store.marks.limit_bytes * PINS_SHARE) - self.marks_bytes

    def _pin_mark(self, agent: Agent) -> None:
        mark = self._last_mark(agent, agent.pinned)
        more = self._more_for(mark)
        if mark is not None and more <= min(self._free, self._free_for_marks):
            self._count_mark(more)
            self.store.ledger.pin(mark)
            agent.pinned_mark = mark

    def _count_mark(self, more: int) -> None:
        self.bytes += more
        self.marks_bytes += more

    def _more_for(self, mark: Mark | None) -> int:
        """Bytes a mark takes that nobody pins; 0 of one that somebody does."""
        return 0 if mark is None or mark.pins else self.store.spec.mark_bytes(mark.position)

    def _last_mark(self, agent: Agent, chain: Sequence[Block]) -> Mark | None:
        """The last of the marks that an agent's history passes."""
        marks = [mark for block in (self.store.root(agent.salt), *chain) for mark in block.marks.values()]
        passed = [mark for mark in marks if agent.history.startswith(mark.packed, mark.after.stop * TOKEN_BYTES)]
        return max(passed, key=lambda mark: mark.position, default=None)
