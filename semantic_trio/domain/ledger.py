"""What blocks and marks have in common: where each is, what that takes of the budget, and what device and disk are to do about it.

Knows names, sizes and orders. Knows nothing of histories: what leads to a block or mark, and what is lost with it, know those who call.
"""

from collections.abc import Collection

import attrs

from semantic_trio.domain.blocks import Amount, BlockPool
from semantic_trio.domain.content import Kind
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.prefix import Block, Kept, Mark
from semantic_trio.domain.room import Room
from semantic_trio.domain.step import BlockKey, MarkKey


@attrs.define(eq=False)
class Ledger:
    """The books of one model."""

    spec: ModelCacheSpec
    pool: BlockPool
    room: Room
    disk: Disk
    awaited: frozenset[Kept] = attrs.field(init=False, default=frozenset())  # came from disk for somebody who has not begun with it yet
    _owed: list[Kept] = attrs.field(init=False, factory=list)
    _drops: dict[Kind, dict[bytes, None]] = attrs.field(init=False, factory=lambda: {kind: {} for kind in Kind})  # in order

    def size(self, kept: Kept) -> int:
        """Bytes of a block or mark, wherever it is."""
        return sum(self._amount(kept))

    def touch(self, kept: Kept) -> None:
        """It was used."""
        self.disk.touch(kept.item)
        if kept.is_stored and not kept.pins:
            self.room.touch(kept, self.pool.size(kept.key))

    # -------------------------------------------------------------------------------------------------------------------- RAM

    def allocate(self, kept: Kept) -> None:
        """Give it its room. Raises `PoolExhaustedError`."""
        self.pool.allocate(kept.key, self._amount(kept), self.spec.arrays_per_block if isinstance(kept, Block) else 0)

    def stored(self, kept: Kept) -> None:
        """It is in RAM, or will be when the device has done what it is about to be told."""
        kept.is_stored = True
        if kept.is_owed:
            self._owed.append(kept)
        self._drops[kept.kind].pop(kept.key, None)  # the device keeps before it drops

    def free(self, kept: Kept, *, drop: bool) -> None:
        """It is in RAM no more, as something of its own; `drop` orders the device to give it up, where no row takes it over."""
        kept.is_owed = self.disk.is_to_write(kept)
        self.forget_write(kept)
        self.room.forget(kept)
        self.pool.free(kept.key)
        kept.is_stored = False
        if drop:
            self._drops[kept.kind][kept.key] = None

    def pin(self, kept: Kept) -> None:
        """Keep it whatever happens."""
        kept.pins += 1
        self.room.forget(kept)

    def unpin(self, kept: Kept) -> None:
        """Let it be given up again."""
        kept.pins -= 1
        self.touch(kept)

    def struck_off(self, kept: Kept) -> None:
        """Nothing leads to it any more; what is on disk stays there."""
        if kept.is_stored:
            self.free(kept, drop=True)
        self.cancel(kept)
        kept.is_struck_off = True
        if kept.is_written:
            kept.is_written = False
            del self.disk.known[kept.item]

    # ------------------------------------------------------------------------------------------------------------------- disk

    def write(self, kept: Kept) -> None:
        """Have something written to disk; until it is there it goes only where nothing else is left. What a row holds is written when that closes."""
        if not self.disk.exists or kept.is_written or self.disk.is_to_write(kept):
            return
        kept.is_owed = not kept.is_stored
        if kept.is_stored:
            self.room.hold_back(kept)
            self.disk.write(kept)

    def write_owed(self) -> None:
        """Have written what rows have held that are closed now."""
        owed, self._owed = self._owed, []
        for kept in owed:
            if kept.is_stored:
                self.write(kept)

    def forget_write(self, kept: Kept) -> None:
        """It need not be written."""
        self.disk.forget_write(kept)
        self.room.let_go(kept)

    def written(self, kept: Kept, size: int) -> None:
        """It is on disk, wherever else it has gone meanwhile."""
        self.disk.added(kept.item, size)
        self.forget_write(kept)
        if kept.is_struck_off:
            self.disk.remove(kept.item)
        else:
            self.found_on_disk(kept)

    def found_on_disk(self, kept: Kept) -> None:
        """Something known is on disk."""
        kept.is_written = True
        self.disk.known[kept.item] = kept

    def off_disk(self, kept: Kept) -> None:
        """It is on disk no longer."""
        del self.disk.known[kept.item]
        kept.is_written = False
        self.cancel(kept)

    def bring_back(self, kept: Collection[Kept]) -> None:
        """Give what is on disk its room in RAM, and have it read. Raises `PoolExhaustedError` where that was not made before."""
        for one in kept:
            self.allocate(one)
            one.is_coming = True
        self.disk.read(kept)

    def came(self, kept: Kept) -> bool:
        """The device stores what was read; whether that is still wanted. If not, the device drops it again."""
        self.disk.reading.discard(kept)
        if kept.is_coming:
            kept.is_coming = False
            self.stored(kept)
            return True
        if kept.key not in self.pool:
            self._drops[kept.kind][kept.key] = None
        return False

    def did_not_come(self, kept: Kept) -> None:
        """The device does not store it."""
        self.disk.reading.discard(kept)
        self.cancel(kept)

    def cancel(self, kept: Kept) -> None:
        """If it is coming from disk, it is not wanted any more."""
        if kept.is_coming:
            kept.is_coming = False
            self.pool.free(kept.key)

    # ----------------------------------------------------------------------------------------------------------------- device

    @property
    def has_drops(self) -> bool:
        """Whether the device has something to be told."""
        return any(self._drops.values())

    def take_drops(self, in_use: Collection[bytes]) -> tuple[tuple[BlockKey, ...], tuple[MarkKey, ...]]:
        """What the device is to drop, told once; what is in use a step later, and what is being read when that has come or has not."""
        staying = self.disk.coming_keys.union(in_use)
        blocks, marks = (tuple(key for key in self._drops[kind] if key not in staying) for kind in Kind)
        self._drops = {kind: {key: None for key in keys if key in staying} for kind, keys in self._drops.items()}
        return blocks, marks

    def found_on_device(self, kind: Kind, keys: frozenset[bytes], known: set[bytes]) -> int:
        """The device holds these keys, and `known` is what it should: it drops the others. Returns how many nobody had given up."""
        extra = keys - known - set(self._drops[kind])
        self._drops[kind] = dict.fromkeys([*(key for key in self._drops[kind] if key in keys), *extra])
        return len(extra)

    def _amount(self, kept: Kept) -> Amount:
        if isinstance(kept, Mark):
            return self.spec.mark_amount(kept.position)
        assert isinstance(kept, Block)
        return self.spec.block_amount(kept.stop - kept.start)
