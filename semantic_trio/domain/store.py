"""Blocks and snapshots between rows, within a budget: what is evicted for want of memory, and what
is lost with what.

Knows the prefix tree and the states. Knows nothing of agents or prompts. It orders; the device,
which holds the arrays, does.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.chain import child_key, root_key
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.entries import Block, CacheEntry, Snapshot
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.prefix import PrefixTree
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.salt import Salt
from semantic_trio.domain.states import BlockStates
from semantic_trio.domain.step import BlockKey, Inventory, SaveBlock


@attrs.define(eq=False)
class Store:
    """Blocks and snapshots of one model."""

    spec: ModelCacheSpec
    budget_bytes: int
    disk: Disk = attrs.field(factory=Disk)
    pool: BlockPool = attrs.field(init=False)
    states: BlockStates = attrs.field(init=False)
    tree: PrefixTree = attrs.field(init=False)
    evictions: int = attrs.field(init=False, default=0)  # of blocks

    def __attrs_post_init__(self) -> None:
        self.pool = BlockPool(self.spec, self.budget_bytes)
        self.states = BlockStates(self.spec, self.pool, self.disk)
        self.tree = PrefixTree(self.spec.needs_snapshots, self._block_on_disk)

    def root(self, salt: Salt) -> Block:
        """The root of all histories of a salt."""
        return self.tree.root(root_key(self.spec.fingerprint, salt))

    def size(self, entry: CacheEntry) -> int:
        """Bytes of a block or snapshot in memory."""
        return self.states.size(entry)

    # --------------------------------------------------------------------------------------- memory

    def evict_for(
        self, wanted: int, sparing: AbstractSet[object] = frozenset(), *, may_lose: bool = False
    ) -> None:
        """Evict until so many bytes are available.

        `sparing` is what stays; with a block it holds all that are before it.

        Raises `PoolExhaustedError`, and then nothing was evicted.
        """
        if self.pool.fits(wanted):
            return
        possible = self.states.obtainable(sparing, may_lose=may_lose).bytes
        if wanted > possible:
            raise PoolExhaustedError(wanted=wanted, free=possible, total=self.pool.total_bytes)
        self.evict_until(wanted, 0, sparing, may_lose=may_lose)

    def evict_until(
        self, wanted: int, buffers: int, sparing: AbstractSet[object], *, may_lose: bool = False
    ) -> None:
        """Evict until so much is available, which has to be obtainable."""
        victims = (
            victim for victim in self.states.victims(may_lose=may_lose) if victim not in sparing
        )
        while not self.pool.fits(wanted, buffers):
            self._evict_counted(next(victims))

    def evict_all(self, sparing: AbstractSet[object] = frozenset()) -> int:
        """Evict everything that no row uses and no pin holds, but for `sparing`.

        Returns the bytes that were freed.
        """
        before = self.pool.used
        for victim in self.states.victims(may_lose=True):
            if victim not in sparing:
                self._evict_counted(victim)
        return before - self.pool.used

    def unwritten(self) -> set[CacheEntry]:
        """Cached entries that wait to be written, with all blocks before each: a block that is
        removed takes what follows it along.
        """
        found: set[CacheEntry] = set()
        for queue in self.states.queues.values():
            for entry in queue.victims(held_back=True):
                one: CacheEntry | None = entry
                while one is not None and one not in found:
                    found.add(one)
                    one = _before(one)
        return found

    def evict(self, entry: CacheEntry) -> None:
        """Free the memory of a cached block or snapshot.

        What is on disk stays known; what is not is removed, with all that follows it.
        """
        if entry.is_on_disk:
            self.states.evict(entry)
        else:
            self.remove(entry)

    def remove(self, entry: CacheEntry) -> None:
        """Remove an entry from the tree, with all that follows it; what is on disk stays there, and
        is found by its name.
        """
        if isinstance(entry, Snapshot):
            del entry.after.snapshots[entry.key]
            self.states.remove(entry)
            return
        assert isinstance(entry, Block)
        following = [entry]
        for one in following:  # grows as it is read: a history may be thousands of blocks long
            following += one.children
        for one in reversed(following):
            self._remove_block(one)

    def remove_from(self, blocks: Sequence[Block]) -> None:
        """Remove blocks that follow each other: with the first go all."""
        for block in blocks[:1]:
            self.remove(block)

    def child(self, parent: Block, packed: bytes) -> Block:
        """The block of these tokens after `parent`, made where there is none: then its content is
        nowhere yet.
        """
        key = child_key(parent.key, packed)
        block = parent.children.get(key)
        if block is None:
            block = Block(key, parent, parent.stop, packed)
            parent.children.add(block)
            if self.disk.has_block(key):
                self.states.found_on_disk(block)
        return block

    def put_in(
        self, blocks: Sequence[Block], row: int, sparing: AbstractSet[object] = frozenset()
    ) -> tuple[SaveBlock, ...]:
        """Store blocks that follow each other, whose last row is being closed.

        From the first on, as many as evicting others makes room for; the rest is removed, but for
        what is on disk.
        """
        count, total = self._as_many(blocks, sparing)
        self.evict_until(total, count * self.spec.arrays_per_block, sparing, may_lose=True)
        for block in blocks[:count]:
            self.states.cancel_load(block)
            self.states.store(block)
        self.remove_from([block for block in blocks[count:] if not block.is_held])
        return tuple(SaveBlock(block.key, row, block.start, block.stop) for block in blocks[:count])

    def touch(self, path: Sequence[Block], breakpoints: Sequence[Breakpoint] = ()) -> None:
        """A path was used: its end is evicted first, and what no breakpoint comes after before what
        is before one.
        """
        for block in reversed(path):
            block.rank = max(block.rank, rank_at(block.start + 1, breakpoints))
            self.states.touch(block)

    # ----------------------------------------------------------------------------------------- disk

    def load(
        self, entries: Sequence[CacheEntry], sparing: AbstractSet[object], *, insists: bool
    ) -> None:
        """Make room in memory for entries that are on disk, and have them read.

        What others wait for is evicted only where it `insists`.

        Raises `PoolExhaustedError`, and then nothing was ordered.
        """
        self.evict_for(
            sum(map(self.size, entries)), sparing if insists else sparing | self.states.awaited
        )
        self.states.load(entries)

    def cancel_loads(self) -> None:
        """Cancel all loads: no sequence waits for them any more."""
        for entry in self.disk.reading:
            self.states.cancel_load(entry)

    def loaded(self, entry: CacheEntry, *, has_come: bool) -> None:
        """An entry that was read from disk is stored on the device, or could not be read."""
        if not has_come:
            self.states.not_loaded(entry)
        elif self.states.loaded(entry):
            self.states.touch(entry)

    def delete(self, item: Item) -> None:
        """Have something deleted from disk. What is in memory stays there."""
        entry = self.disk.known.get(item)
        self.disk.remove(item)
        if entry is not None:
            self._off_disk(entry)

    def unlisted(self, items: Iterable[Item]) -> None:
        """Delete entries that no record needs any more from disk, but for those that are pinned."""
        for item in items:
            if item not in self.disk.known or not self.disk.known[item].pins:
                self.delete(item)

    def written(self, entry: CacheEntry, size: int) -> None:
        """An entry is on disk, in so many bytes, wherever else it has gone meanwhile: one that was
        removed is deleted there.
        """
        self.disk.added(entry.item, size)
        if entry.is_removed:
            self.disk.remove(entry.item)
        else:
            self.states.found_on_disk(entry)

    def not_written(self, entry: CacheEntry) -> None:
        """The device did not hold an entry that was to be written.

        One that a row holds is written when that closes.
        """
        if entry.is_cached:
            self.states.cancel_write(entry)

    def lost(self, entry: CacheEntry) -> None:
        """An entry could not be read from disk, and is not there any longer."""
        self.disk.damaged(entry)
        if entry.is_on_disk:
            self.disk.lost(entry.item)
            self._off_disk(entry)

    def vanished(self, item: Item) -> None:
        """A file was deleted by something else.

        What is in memory stays there, and may be written again.
        """
        entry = self.disk.known.get(item)
        self.disk.lost(item)
        if entry is not None:
            self._off_disk(entry)

    # ------------------------------------------------------------------------------------- accounts

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the states agree with what the device holds: what it has not is cached no more, what
        it has too much is dropped.

        Returns a line for each difference. To be called when the device has done everything it was
        told.
        """
        missing = [
            *self.states.missing(Kind.BLOCK, inventory.blocks),
            *self.states.missing(Kind.SNAPSHOT, inventory.snapshots),
        ]
        for entry in missing:
            if entry.is_cached:  # it may have been removed with a block before it
                self.evict(entry)
        extra = self.states.drop_unknown(Kind.BLOCK, inventory.blocks) + self.states.drop_unknown(
            Kind.SNAPSHOT, inventory.snapshots
        )
        lines = [f"{len(missing)} blocks and snapshots are not on the device"] if missing else []
        return lines + (
            [f"{extra} blocks and snapshots nobody knows are on the device"] if extra else []
        )

    def entries(self) -> list[CacheEntry]:
        """All blocks and snapshots of the tree."""
        blocks = list(self.tree.blocks())
        return [
            *blocks,
            *(
                snapshot
                for block in (*self.tree.roots, *blocks)
                for snapshot in block.snapshots.values()
            ),
        ]

    # -------------------------------------------------------------------------------------- private

    def _evict_counted(self, victim: CacheEntry) -> None:
        if victim.is_cached and not victim.pins:  # it may have been removed with a block before it
            self.evictions += victim.kind is Kind.BLOCK
            self.evict(victim)

    def _as_many(self, blocks: Sequence[Block], sparing: AbstractSet[object]) -> tuple[int, int]:
        """Number of the first blocks that there could be room for, and their bytes."""
        count, total = 0, 0
        possible = self.states.obtainable(sparing, may_lose=True)
        for block in blocks:
            size = self.size(block)
            if (
                total + size > possible.bytes
                or (count + 1) * self.spec.arrays_per_block > possible.count
            ):
                break
            count, total = count + 1, total + size
        return count, total

    def _remove_block(self, block: Block) -> None:
        assert block.parent is not None, "the root stays"
        for snapshot in list(block.snapshots.values()):
            self.remove(snapshot)
        block.rows.clear()
        block.parent.children.remove(block)
        self.states.remove(block)
        block.disown()

    def _off_disk(self, entry: CacheEntry) -> None:
        self.states.off_disk(entry)
        if not entry.is_held:
            self.remove(entry)

    def _block_on_disk(self, parent: Block, key: BlockKey, packed: bytes) -> Block | None:
        """A block on disk is known by its name alone: its tokens are those it is asked for with."""
        return self.child(parent, packed) if self.disk.has_block(key) else None


def _before(entry: CacheEntry) -> Block | None:
    """The block that an entry follows; None for a root."""
    if isinstance(entry, Snapshot):
        return entry.after
    assert isinstance(entry, Block)
    return entry.parent


def rank_at(position: int, breakpoints: Iterable[Breakpoint]) -> Rank:
    """The rank of what ends at a position: that of the highest breakpoint there or further on."""
    return max((one.rank for one in breakpoints if one.position >= position), default=Rank.PLAIN)
