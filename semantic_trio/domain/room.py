"""Who makes room in RAM: what nobody uses goes, and what is about to be written to disk only where it may be lost.

Knows sizes and the order of use. Knows nothing of histories: whoever holds a victim is told to give it up.
"""

from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.prefix import Block, Kept, Mark
from semantic_trio.domain.residency import Rank, Residency, Share


@attrs.define(eq=False)
class Room:
    """The budget, and what could go for others. `sparing` is what is not to go; it has with a block all that are before it."""

    pool: BlockPool
    buffers_per_block: int
    give_up: Callable[[Kept], None]
    is_disk_open: Callable[[], bool]  # what is held back for it gets there
    blocks: Residency[Block] = attrs.field(init=False, factory=Residency)  # stored, and pinned by nobody
    marks: Residency[Mark] = attrs.field(init=False, factory=Residency)
    evictions: int = attrs.field(init=False, default=0)  # blocks

    def make(self, wanted: int, sparing: AbstractSet[object] = frozenset(), *, may_lose: bool = False) -> None:
        """Give up what nobody uses until so many bytes are available. Raises `PoolExhaustedError`, and then nothing was given up."""
        if self.pool.fits(wanted):
            return
        possible = self.obtainable(sparing, may_lose=may_lose).bytes
        if wanted > possible:
            raise PoolExhaustedError(wanted=wanted, free=possible, total=self.pool.total_bytes)
        self.give_up_until(wanted, 0, sparing, may_lose=may_lose)

    def obtainable(self, sparing: AbstractSet[object] = frozenset(), *, may_lose: bool = False) -> Share:
        """Bytes and buffers that are available when everything is given up that may be."""
        loses = may_lose or not self.is_disk_open()
        blocks, marks = self.blocks.share(sparing, held_back=loses), self.marks.share(sparing, held_back=loses)
        return Share(self.pool.available + blocks.bytes + marks.bytes, self.pool.available_buffers + blocks.count * self.buffers_per_block)

    def give_up_until(self, wanted: int, buffers: int, sparing: AbstractSet[object], *, may_lose: bool = False) -> None:
        """Give up until so much is available, which has to be obtainable."""
        victims = (victim for victim in self.victims(loses=may_lose or not self.is_disk_open()) if victim not in sparing)
        while not self.pool.fits(wanted, buffers):
            self._evict(next(victims))

    def touch(self, kept: Kept, size: int) -> None:
        """Something stored was used."""
        if isinstance(kept, Mark):
            self.marks.touch(kept, size, kept.rank)
        else:
            assert isinstance(kept, Block)
            self.blocks.touch(kept, size, kept.rank)

    def forget(self, kept: Kept) -> None:
        """Something is in use, or not stored any more."""
        if isinstance(kept, Mark):
            self.marks.forget(kept)
        else:
            assert isinstance(kept, Block)
            self.blocks.forget(kept)

    def hold_back(self, kept: Kept) -> None:
        """Something is about to be written to disk."""
        if isinstance(kept, Mark):
            self.marks.hold_back(kept)
        else:
            assert isinstance(kept, Block)
            self.blocks.hold_back(kept)

    def let_go(self, kept: Kept) -> None:
        """It is written, or need not be."""
        if isinstance(kept, Mark):
            self.marks.let_go(kept)
        else:
            assert isinstance(kept, Block)
            self.blocks.let_go(kept)

    def evict(self) -> int:
        """Give up everything nobody uses; the bytes that were freed."""
        before = self.pool.used
        for victim in self.victims(loses=True):
            self._evict(victim)
        return before - self.pool.used

    def victims(self, *, loses: bool) -> Iterator[Kept]:
        """All in the order they should go: blocks before marks of each rank, and last, where it `loses` them, those held back."""
        for held_back in (False, True) if loses else (False,):
            for rank in Rank:
                yield from self.blocks.of_rank(rank, held_back=held_back)
                yield from self.marks.of_rank(rank, held_back=held_back)

    def audit(self, kept: Collection[Kept], is_to_write: Callable[[Kept], bool]) -> None:
        """Assert that exactly these could go, and that those are held back which are to be written."""
        held_back, offered = (
            set(self.blocks.victims(held_back=True)) | set(self.marks.victims(held_back=True)),
            {*self.blocks.victims(), *self.marks.victims()},
        )
        assert held_back | offered == set(kept)
        assert held_back == {one for one in kept if is_to_write(one)}
        assert self.blocks.held_back.bytes + self.marks.held_back.bytes == sum(self.pool.size(one.key) for one in held_back)
        assert self.blocks.offered.bytes + self.marks.offered.bytes == sum(self.pool.size(one.key) for one in offered)

    def _evict(self, victim: Kept) -> None:
        if victim in self.blocks:  # it may have gone with one before it
            self.evictions += 1
            self.give_up(victim)
        elif victim in self.marks:
            self.give_up(victim)
