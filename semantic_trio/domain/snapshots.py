"""Snapshots of what blocks do not hold, at chosen positions of rows, within a share of the budget.

Knows rows, positions and ranks. Knows nothing of agents or prompts.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, snapshot_key
from semantic_trio.domain.content import Kind
from semantic_trio.domain.entries import Block, CacheEntry, LiveRow, Snapshot
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.eviction import EvictionQueue, Rank
from semantic_trio.domain.geometry import LayerKind, ModelCacheSpec
from semantic_trio.domain.prefix import snapshot_at
from semantic_trio.domain.states import BlockStates
from semantic_trio.domain.step import SaveSnapshot
from semantic_trio.domain.store import Store

# Snapshots may take this part of the budget: a recurrent state can be as large as the keys and
# values of 3,000 tokens.
SNAPSHOTS_SHARE = 0.25


@attrs.define(eq=False)
class Snapshots:
    """The snapshots of one model."""

    store: Store

    @property
    def used(self) -> int:
        """Bytes of the snapshots in memory."""
        return self._states.snapshot_bytes

    @property
    def limit_bytes(self) -> int:
        """Bytes that they may take."""
        return int(self.store.pool.total_bytes * SNAPSHOTS_SHARE)

    def order(
        self, row: LiveRow, position: int, *, replaces: bool = False, insists: bool = False
    ) -> SaveSnapshot | None:
        """Order a snapshot of a row that has computed exactly `position` tokens; None where it is
        not needed, there already, or too large.

        Where it `replaces` the last one the row has taken on its way, that one is evicted before
        anything else from now on. Where it `insists`, what others wait for is evicted too.
        """
        if not self._spec.needs_snapshots or not position:
            return None
        key, after, packed = snapshot_at(row, position)
        rank = row.points.get(position, Rank.PLAIN)
        snapshot = after.snapshots.get(key)
        if snapshot is not None and (snapshot.is_cached or snapshot.is_loading):
            self.touch(snapshot, rank)
            return None
        spent = row.passing if replaces else None
        sparing = self._points(row, rank)
        if not self._evict_for(
            self._spec.snapshot_bytes(position),
            sparing if insists else sparing | self._awaited,
            spent,
        ):
            return None
        snapshot = snapshot or self.add(after, packed)
        self._states.store(snapshot)
        self.touch(snapshot, rank)
        if replaces:
            row.passing = snapshot
        return SaveSnapshot(key, row.number, position)

    def add(self, after: Block, packed: bytes) -> Snapshot:
        """A snapshot so many tokens behind a block, whose content is nowhere yet."""
        key = snapshot_key(after.key, packed)
        snapshot = after.snapshots[key] = Snapshot(
            key, after, packed, self._is_whole(after.stop + len(packed) // TOKEN_BYTES)
        )
        return snapshot

    def touch(self, snapshot: Snapshot, rank: Rank = Rank.PLAIN) -> None:
        """A snapshot was used."""
        snapshot.rank = max(snapshot.rank, rank)
        self._states.touch(snapshot)

    def load(
        self, entries: Sequence[CacheEntry], sparing: AbstractSet[object], *, insists: bool
    ) -> None:
        """Have entries read from disk, and the snapshots among them within their share.

        Raises as `Store.load` does.
        """
        for entry in entries:
            wanted = self._states.size(entry)
            if isinstance(entry, Snapshot) and not self._evict_for(
                wanted, frozenset() if insists else self._awaited
            ):
                raise PoolExhaustedError(
                    wanted=wanted, free=self.limit_bytes - self.used, total=self.limit_bytes
                )
        self.store.load(entries, sparing, insists=insists)

    @property
    def _spec(self) -> ModelCacheSpec:
        return self.store.spec

    @property
    def _states(self) -> BlockStates:
        return self.store.states

    @property
    def _queue(self) -> EvictionQueue[CacheEntry]:
        return self._states.queues[Kind.SNAPSHOT]

    @property
    def _awaited(self) -> AbstractSet[CacheEntry]:
        return {one for one in self._states.awaited if isinstance(one, Snapshot)}

    def _evict_for(
        self,
        wanted: int,
        sparing: AbstractSet[CacheEntry] = frozenset(),
        spent: Snapshot | None = None,
    ) -> bool:
        """Evict until a snapshot of so many bytes has room in the budget and in the share.

        Returns False if it cannot; nothing was evicted then.

        What is about to be written to disk does not count against the share: it may soon be
        evicted.
        """
        waiting = self._queue.held_back.bytes if self.store.disk.is_open else 0
        staying = self.used - waiting - self._queue.share(sparing, held_back=not waiting).bytes
        if (
            staying + wanted > self.limit_bytes
            or wanted > self._states.obtainable(sparing, may_lose=True).bytes
        ):
            return False
        if spent is not None:
            self._spend(spent)
        victims = (
            one
            for held_back in (False, True)
            for one in self._queue.victims(held_back=held_back)
            if one not in sparing
        )
        while self.used - waiting + wanted > self.limit_bytes:
            self.store.evict(next(victims))
        self.store.evict_until(wanted, 0, sparing, may_lose=True)
        return True

    def _spend(self, snapshot: Snapshot) -> None:
        if snapshot in self._queue and snapshot.rank is Rank.PLAIN:
            snapshot.rank = Rank.SPENT
            self._states.touch(snapshot)

    def _points(self, row: LiveRow, rank: Rank) -> set[CacheEntry]:
        """The snapshots at a row's points that are of this rank at least: its other snapshots do
        not take their place.
        """
        cached = self._states.cached[Kind.SNAPSHOT]
        found = [cached.get(snapshot_at(row, position)[0]) for position in row.points]
        return {one for one in found if one is not None and one.rank >= rank}

    def _is_whole(self, position: int) -> bool:
        """True if no layer has left position 0 behind: recurrent ones always have."""
        others = [group for group in self._spec.groups if group.kind is not LayerKind.GLOBAL]
        return all(group.kind is LayerKind.SLIDING and position <= group.window for group in others)
