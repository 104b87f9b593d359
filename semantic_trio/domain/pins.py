"""Pinned histories of agents, which are never evicted, and how much they may take.

Knows agents' blocks and snapshots by their sizes. Knows nothing of rows, prompts or eviction.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import TOKEN_BYTES
from semantic_trio.domain.entries import Block, Snapshot
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.snapshots import Snapshots
from semantic_trio.domain.store import Store

# Pins may take this part of the budget, and of what snapshots may take: the rest has to go on
# serving.
PINS_SHARE = 0.5


@attrs.define(eq=False)
class Pins:
    """The pins of all agents. What several of them pin is counted once."""

    store: Store
    snapshots: Snapshots
    bytes: int = attrs.field(init=False, default=0)  # of blocks and snapshots
    snapshot_bytes: int = attrs.field(init=False, default=0)

    def pin(self, agent: Agent, chain: Sequence[Block]) -> None:
        """Keep a history whatever happens: `chain` are its blocks.

        Raises `PoolExhaustedError` where pins would take more than half of the budget, or pinned
        snapshots more than half of what snapshots may take.
        """
        snapshots = self._more_for(self._last_snapshot(agent, chain))
        blocks = sum(self.store.size(block) for block in chain if not block.pins)
        for wanted, free in (
            (blocks + snapshots, self._free),
            (snapshots, self._free_for_snapshots),
        ):
            if wanted > free:
                raise PoolExhaustedError(wanted=wanted, free=free, total=self.store.budget_bytes)
        self.pin_what_fits(agent, chain)

    def pin_what_fits(self, agent: Agent, chain: Sequence[Block]) -> None:
        """Keep as much of a history as pins may take, from its beginning on and with room for its
        snapshot.
        """
        self.unpin(agent)
        agent.is_pinned = True
        reserved = self._more_for(self._last_snapshot(agent, chain))
        for block in chain:
            more = 0 if block.pins else self.store.size(block)
            if more + reserved > self._free:
                break
            self.store.states.pin(block)
            self.bytes += more
            agent.pinned.append(block)
        self._pin_snapshot(agent)

    def unpin(self, agent: Agent) -> None:
        """Let a history be given up again."""
        for block in reversed(agent.pinned):  # the end goes first
            self.store.states.unpin(block)
            if not block.pins:
                self.bytes -= self.store.size(block)
        if agent.pinned_snapshot is not None:
            self.store.states.unpin(agent.pinned_snapshot)
            self._count_snapshot(-self._more_for(agent.pinned_snapshot))
        agent.pinned, agent.pinned_snapshot, agent.is_pinned = [], None, False

    @property
    def _free(self) -> int:
        return int(self.store.budget_bytes * PINS_SHARE) - self.bytes

    @property
    def _free_for_snapshots(self) -> int:
        return int(self.snapshots.limit_bytes * PINS_SHARE) - self.snapshot_bytes

    def _pin_snapshot(self, agent: Agent) -> None:
        snapshot = self._last_snapshot(agent, agent.pinned)
        more = self._more_for(snapshot)
        if snapshot is not None and more <= min(self._free, self._free_for_snapshots):
            self._count_snapshot(more)
            self.store.states.pin(snapshot)
            agent.pinned_snapshot = snapshot

    def _count_snapshot(self, more: int) -> None:
        self.bytes += more
        self.snapshot_bytes += more

    def _more_for(self, snapshot: Snapshot | None) -> int:
        """Bytes a snapshot takes that nobody pins; 0 of one that somebody does."""
        return (
            0
            if snapshot is None or snapshot.pins
            else self.store.spec.snapshot_bytes(snapshot.position)
        )

    def _last_snapshot(self, agent: Agent, chain: Sequence[Block]) -> Snapshot | None:
        """The last of the snapshots that an agent's history passes."""
        snapshots = [
            snapshot
            for block in (self.store.root(agent.salt), *chain)
            for snapshot in block.snapshots.values()
        ]
        passed = [
            snapshot
            for snapshot in snapshots
            if agent.history.startswith(snapshot.packed, snapshot.after.stop * TOKEN_BYTES)
        ]
        return max(passed, key=lambda snapshot: snapshot.position, default=None)
