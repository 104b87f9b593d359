"""The states of blocks and snapshots: the place of each, its bytes in the budget, and the orders to
device and disk that follow.

Only this module changes `CacheEntry.memory` and `CacheEntry.disk`; it asserts that one state may
follow the other. Knows names, sizes and orders. Knows nothing of histories: callers know which
histories lead to an entry.
"""

from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.blocks import Amount, BlockPool
from semantic_trio.domain.content import Kind
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.entries import (
    DISK_TRANSITIONS,
    MEMORY_TRANSITIONS,
    Block,
    CacheEntry,
    InMemory,
    OnDisk,
    Snapshot,
)
from semantic_trio.domain.eviction import EvictionQueue, Rank, Share
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.step import BlockKey, SnapshotKey


@attrs.define(eq=False)
class BlockStates:
    """The entries of one model by state, with the pool of bytes and the orders that follow from
    it.
    """

    spec: ModelCacheSpec
    pool: BlockPool
    disk: Disk
    cached: dict[Kind, dict[bytes, CacheEntry]] = attrs.field(
        init=False, factory=lambda: {kind: {} for kind in Kind}
    )
    queues: dict[Kind, EvictionQueue[CacheEntry]] = attrs.field(
        init=False, factory=lambda: {kind: EvictionQueue() for kind in Kind}
    )
    # loaded from disk for sequences that still wait for a row
    awaited: frozenset[CacheEntry] = attrs.field(init=False, default=frozenset())
    snapshot_bytes: int = attrs.field(init=False, default=0)  # of cached snapshots
    # pending writes, ordered when the device has stored the entries
    _unordered: list[CacheEntry] = attrs.field(init=False, factory=list)
    # in order
    _drops: dict[Kind, dict[bytes, None]] = attrs.field(
        init=False, factory=lambda: {kind: {} for kind in Kind}
    )

    def size(self, entry: CacheEntry) -> int:
        """Return the bytes that an entry takes in memory, also of one that is not in memory."""
        return sum(self.amount(entry))

    def amount(self, entry: CacheEntry) -> Amount:
        """Return the bytes that an entry takes in memory, by layer group."""
        if isinstance(entry, Snapshot):
            return self.spec.snapshot_amount(entry.position)
        assert isinstance(entry, Block)
        return self.spec.block_amount(entry.tokens)

    # --------------------------------------------------------------------------------------- memory

    def publish(self, block: Block, row: int) -> bool:
        """Note that a row has computed a block.

        Returns True if the pool now counts the bytes as the block's and not as the row's.
        """
        is_first = block.memory is not InMemory.REFERENCED
        # a block that two rows computed stays with both
        becomes_shared = is_first and self.spec.is_paged
        if becomes_shared:
            self.pool.shrink(("row", row), self.amount(block))
        if is_first:
            # drops the stored copy of the same tokens
            self._move(block, InMemory.REFERENCED, drops=block.is_cached)
        block.rows[row] = None
        return becomes_shared

    def share(self, block: Block, row: int, *, drops: bool) -> None:
        """Note that a row begins with a block in memory.

        A cached block becomes the row's; with `drops` the device drops the stored copy.
        """
        if block.is_cached:
            self._move(block, InMemory.REFERENCED, drops=drops)
        block.rows[row] = None

    def release(self, block: Block, row: int) -> None:
        """Note that a row does not hold a block any more.

        A block without rows is free: the caller stores or removes it.
        """
        block.rows.pop(row, None)
        if block.memory is InMemory.REFERENCED and not block.rows:
            self._move(block, InMemory.FREE)

    def store(self, entry: CacheEntry) -> None:
        """Note that the device will store an entry, or has loaded it.

        Raises `PoolExhaustedError`.
        """
        self._move(entry, InMemory.CACHED)

    def hand_over(self, entry: CacheEntry, *, drops: bool) -> None:
        """Note that a row takes over a cached partial block and grows in it: the block is free as
        an entry.
        """
        self._move(entry, InMemory.FREE, drops=drops)

    def evict(self, entry: CacheEntry) -> None:
        """Order the device to drop a cached entry.

        A pending write of the entry is cancelled: its content is lost.
        """
        self._move(entry, InMemory.FREE, drops=True)
        self.cancel_write(entry)

    def remove(self, entry: CacheEntry) -> None:
        """Take an entry that no history leads to out of memory. Its file on disk stays."""
        if entry.is_cached:
            self.evict(entry)
        elif entry.memory is not InMemory.FREE:
            self._move(entry, InMemory.FREE)
        self.cancel_write(entry)
        entry.is_removed = True
        if entry.is_on_disk:
            self._move_on_disk(entry, OnDisk.NO)

    def touch(self, entry: CacheEntry) -> None:
        """Make an entry the most recently used one, in memory and on disk."""
        self.disk.touch(entry.item)
        self._queue(entry)

    def pin(self, entry: CacheEntry) -> None:
        """Protect an entry from eviction. Pins are counted."""
        entry.pins += 1
        self.queues[entry.kind].forget(entry)

    def unpin(self, entry: CacheEntry) -> None:
        """Take one pin off an entry."""
        entry.pins -= 1
        self.touch(entry)

    # ------------------------------------------------------------------------------------- eviction

    def obtainable(
        self, sparing: AbstractSet[object] = frozenset(), *, may_lose: bool = False
    ) -> Share:
        """Return the bytes and buffers that are available if every evictable entry but those in
        `sparing` is evicted.

        `may_lose`: also entries with a pending write, which would be lost. While the disk refuses
        writes these always count.
        """
        loses = may_lose or not self.disk.is_open
        blocks, snapshots = (
            self.queues[kind].share(sparing, held_back=loses)
            for kind in (Kind.BLOCK, Kind.SNAPSHOT)
        )
        buffers = self.pool.available_buffers + blocks.count * self.spec.arrays_per_block
        return Share(self.pool.available + blocks.bytes + snapshots.bytes, buffers)

    def victims(self, *, may_lose: bool) -> Iterator[CacheEntry]:
        """Yield entries in order of eviction: of each rank blocks before snapshots, and last the
        entries with a pending write.
        """
        for held_back in (False, True) if may_lose or not self.disk.is_open else (False,):
            for rank in Rank:
                for kind in (Kind.BLOCK, Kind.SNAPSHOT):
                    yield from self.queues[kind].of_rank(rank, held_back=held_back)

    # ----------------------------------------------------------------------------------------- disk

    def load(self, entries: Collection[CacheEntry]) -> None:
        """Allocate memory for entries on disk and queue their reads.

        Raises `PoolExhaustedError` if the caller has not freed enough before.
        """
        for entry in entries:
            self._move(entry, InMemory.LOADING)
        self.disk.read(entries)

    def loaded(self, entry: CacheEntry) -> bool:
        """Note that the device stores a loaded entry.

        Returns False if the load was cancelled meanwhile: the device drops the entry again.
        """
        self.disk.reading.discard(entry)
        if entry.is_loading:
            self._move(entry, InMemory.CACHED)
            return True
        if not entry.is_cached:
            self._drops[entry.kind][entry.key] = None
        return False

    def not_loaded(self, entry: CacheEntry) -> None:
        """Note that the load of an entry failed."""
        self.disk.reading.discard(entry)
        self.cancel_load(entry)

    def cancel_load(self, entry: CacheEntry) -> None:
        """Cancel the load of an entry, if it is loading."""
        if entry.is_loading:
            self._move(entry, InMemory.FREE)

    def write(self, entry: CacheEntry) -> None:
        """Queue the write of an entry for when no row holds it.

        Until the entry is on disk it is evicted only if no other entry is left.
        """
        if self.disk.exists and entry.disk is OnDisk.NO:
            self._move_on_disk(entry, OnDisk.PENDING)
            if entry.is_cached:
                self.disk.write(entry)

    def order_writes(self) -> None:
        """Order the pending writes of entries that the device has just stored from closed rows."""
        unordered, self._unordered = self._unordered, []
        for entry in unordered:
            if entry.is_cached and entry.disk is OnDisk.PENDING:
                self.disk.write(entry)

    def cancel_write(self, entry: CacheEntry) -> None:
        """Cancel the pending write of an entry, if there is one."""
        if entry.disk is OnDisk.PENDING:
            self._move_on_disk(entry, OnDisk.NO)

    def found_on_disk(self, entry: CacheEntry) -> None:
        """Note that an entry of the tree is on disk."""
        if not entry.is_on_disk:
            self._move_on_disk(entry, OnDisk.THERE)

    def off_disk(self, entry: CacheEntry) -> None:
        """Note that an entry is not on disk any more, and cancel its load."""
        self._move_on_disk(entry, OnDisk.NO)
        self.cancel_load(entry)

    # --------------------------------------------------------------------------------------- device

    @property
    def has_drops(self) -> bool:
        """True if the device has something to drop."""
        return any(self._drops.values())

    def take_drops(
        self, in_use: Collection[bytes]
    ) -> tuple[tuple[BlockKey, ...], tuple[SnapshotKey, ...]]:
        """Return the keys of blocks and snapshots for the device to drop, each once.

        Keys in use are held back for a later step, keys of entries that are being read until the
        read is over.
        """
        staying = self.disk.coming_keys.union(in_use)
        blocks, snapshots = (
            tuple(key for key in self._drops[kind] if key not in staying) for kind in Kind
        )
        self._drops = {
            kind: {key: None for key in keys if key in staying}
            for kind, keys in self._drops.items()
        }
        return blocks, snapshots

    def missing(self, kind: Kind, keys: Collection[bytes]) -> list[CacheEntry]:
        """Return the cached entries of a kind whose keys the device does not hold."""
        return [entry for key, entry in self.cached[kind].items() if key not in keys]

    def drop_unknown(self, kind: Kind, keys: frozenset[bytes]) -> int:
        """Order the device to drop those of its `keys` that are not cached.

        Returns the number of keys without a known reason.
        """
        extra = keys - self.cached[kind].keys() - self.disk.coming_keys - self._drops[kind].keys()
        self._drops[kind] = dict.fromkeys(
            [*(key for key in self._drops[kind] if key in keys), *extra]
        )
        return len(extra)

    def audit(self, entries: Sequence[CacheEntry]) -> None:
        """Assert that pool, queues, disk and the lists of this class agree with the states of all
        entries.
        """
        for entry in entries:
            assert entry.is_held, "an entry neither in memory nor on disk is removed"
            assert not entry.is_loading or entry.is_on_disk, "a loading entry is on disk"
            rows = entry.rows if isinstance(entry, Block) else {}
            assert bool(rows) == (entry.memory is InMemory.REFERENCED), (
                "a block with rows is referenced, and no other"
            )
        counted = {entry.key for entry in entries if self._is_counted(entry.memory)}
        assert all(key in self.pool for key in counted), "an entry is in memory and not counted"
        cached = [entry for entry in entries if entry.is_cached]
        assert {entry.key: entry for held in self.cached.values() for entry in held.values()} == {
            entry.key: entry for entry in cached
        }
        assert self.snapshot_bytes == sum(
            self.size(entry) for entry in cached if isinstance(entry, Snapshot)
        )
        for kind, queue in self.queues.items():
            evictable = [entry for entry in cached if entry.kind is kind and not entry.pins]
            for held_back, share in ((False, queue.offered), (True, queue.held_back)):
                expected = {
                    entry for entry in evictable if (entry.disk is OnDisk.PENDING) == held_back
                }
                assert set(queue.victims(held_back=held_back)) == expected
                assert share.bytes == sum(self.pool.size(entry.key) for entry in expected)
        waiting = {entry for entry in cached if entry.disk is OnDisk.PENDING}
        assert {entry for entry in entries if self.disk.is_to_write(entry)} | (
            {*self._unordered} & waiting
        ) == waiting
        assert self.disk.known == {entry.item: entry for entry in entries if entry.is_on_disk}
        self.disk.audit()

    # -------------------------------------------------------------------------------------- private

    def _move(self, entry: CacheEntry, to: InMemory, *, drops: bool = False) -> None:
        """Change the state of an entry in memory; no other code does.

        Raises `PoolExhaustedError` and then changes nothing.
        """
        assert to in MEMORY_TRANSITIONS[entry.memory], (
            f"{entry.kind}: {entry.memory.value}, then {to.value}"
        )
        was_counted, is_counted = self._is_counted(entry.memory), self._is_counted(to)
        if is_counted and not was_counted:
            self.pool.allocate(
                entry.key,
                self.amount(entry),
                self.spec.arrays_per_block if isinstance(entry, Block) else 0,
            )
        if entry.is_cached:
            self._uncache(entry)
        if was_counted and not is_counted:
            self.pool.free(entry.key)
        entry.memory = to
        if entry.is_cached:
            self._cache(entry)
        if drops:
            self._drops[entry.kind][entry.key] = None

    def _is_counted(self, state: InMemory) -> bool:
        """True if an entry in this state has bytes of its own in the pool.

        Paged rows share one copy; other rows have a copy each.
        """
        return state in (InMemory.LOADING, InMemory.CACHED) or (
            state is InMemory.REFERENCED and self.spec.is_paged
        )

    def _cache(self, entry: CacheEntry) -> None:
        self.cached[entry.kind][entry.key] = entry
        self.snapshot_bytes += self.size(entry) if isinstance(entry, Snapshot) else 0
        self._drops[entry.kind].pop(entry.key, None)  # the device stores before it drops
        self._queue(entry)
        if entry.disk is OnDisk.PENDING:
            self._unordered.append(entry)

    def _uncache(self, entry: CacheEntry) -> None:
        del self.cached[entry.kind][entry.key]
        self.snapshot_bytes -= self.size(entry) if isinstance(entry, Snapshot) else 0
        self.queues[entry.kind].forget(entry)
        self.disk.cancel_write(entry)

    def _queue(self, entry: CacheEntry) -> None:
        """Move an evictable entry to the end of its eviction queue."""
        if entry.is_cached and not entry.pins:
            self.queues[entry.kind].touch(entry, self.pool.size(entry.key), entry.rank)

    def _move_on_disk(self, entry: CacheEntry, to: OnDisk) -> None:
        """Change the state of an entry on disk; no other code does."""
        assert to in DISK_TRANSITIONS[entry.disk], (
            f"{entry.kind}: {entry.disk.value}, then {to.value} on disk"
        )
        if entry.is_on_disk:
            del self.disk.known[entry.item]
        entry.disk = to
        if entry.is_on_disk:
            self.disk.known[entry.item] = entry
        if to is OnDisk.PENDING:
            self.queues[entry.kind].hold_back(entry)
        else:
            self.disk.cancel_write(entry)
            self.queues[entry.kind].let_go(entry)
