"""What is kept between rows, within a budget: blocks and marks, in RAM and on disk; and what goes when there is no room.

Knows the tree, and what is lost with what. Knows nothing of agents or prompts. It orders; the device, which holds the arrays, does.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.chain import child_key, root_key
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.conversation import Breakpoint
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.ledger import Ledger
from semantic_trio.domain.marks import Marks
from semantic_trio.domain.prefix import Block, Kept, Mark, PrefixTree
from semantic_trio.domain.residency import Rank
from semantic_trio.domain.room import Room
from semantic_trio.domain.salt import Salt
from semantic_trio.domain.step import BlockKey, Inventory, SaveBlock


@attrs.define(eq=False)
class Store:
    """Blocks and marks of one model."""

    spec: ModelCacheSpec
    budget_bytes: int
    disk: Disk = attrs.field(factory=Disk)
    forgotten: Callable[[Block], None] = lambda block: None  # told of every block that is struck off
    pool: BlockPool = attrs.field(init=False)
    tree: PrefixTree = attrs.field(init=False)
    room: Room = attrs.field(init=False)
    ledger: Ledger = attrs.field(init=False)
    marks: Marks = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.pool = BlockPool(self.spec, self.budget_bytes)
        self.tree = PrefixTree(self.spec.needs_marks, self._block_on_disk)
        self.room = Room(self.pool, self.spec.arrays_per_block, self.give_up, lambda: self.disk.is_open)
        self.ledger = Ledger(self.spec, self.pool, self.room, self.disk)
        self.marks = Marks(self.spec, self.ledger)

    def root(self, salt: Salt) -> Block:
        """The root of all histories of a salt."""
        return self.tree.root(root_key(self.spec.fingerprint, salt))

    def give_up(self, kept: Kept) -> None:
        """Free the RAM of something stored. What is on disk stays known; what is not is struck off."""
        if isinstance(kept, Mark):
            self.marks.give_up(kept)
        elif kept.is_written:
            self.ledger.free(kept, drop=True)
        else:
            assert isinstance(kept, Block)
            self.forget(kept)

    # ----------------------------------------------------------------------------------------------------------------- blocks

    def child(self, parent: Block, packed: bytes) -> Block:
        """The block of these tokens after `parent`, made where there is none: then it is held by nobody yet."""
        key = child_key(parent.key, packed)
        if key not in parent.children:
            block = parent.children[key] = Block(key, parent, parent.stop, packed)
            if self.disk.has_block(key):
                self.ledger.found_on_disk(block)
        return parent.children[key]

    def put_in(self, blocks: Sequence[Block], number: int, sparing: AbstractSet[object] = frozenset()) -> tuple[SaveBlock, ...]:
        """Store blocks that follow each other, whose last row is being closed.

        From the first on, as many as giving up others makes room for; the rest is forgotten, but for what is on disk.
        """
        count, total = self._as_many(blocks, sparing)
        self.room.give_up_until(total, count * self.spec.arrays_per_block, sparing, may_lose=True)
        saves = tuple(self._put_in(block, number) for block in blocks[:count])
        self.forget_all([block for block in blocks[count:] if not block.is_held])
        return saves

    def _as_many(self, blocks: Sequence[Block], sparing: AbstractSet[object]) -> tuple[int, int]:
        """How many of the blocks there could be room for, and their bytes."""
        count, total = 0, 0
        possible = self.room.obtainable(sparing, may_lose=True)
        for block in blocks:
            size = self.ledger.size(block)
            if total + size > possible.bytes or (count + 1) * self.spec.arrays_per_block > possible.count:
                break
            count, total = count + 1, total + size
        return count, total

    def _put_in(self, block: Block, number: int) -> SaveBlock:
        self.ledger.cancel(block)
        self.ledger.allocate(block)
        self.ledger.stored(block)
        return SaveBlock(block.key, number, block.start, block.stop)

    def take_out(self, block: Block, *, drop: bool) -> None:
        """A stored block is in a row now; `drop` orders the device to give the stored copy up, where no row takes it over."""
        self.ledger.free(block, drop=drop)

    def forget(self, block: Block) -> None:
        """Strike a block off, with all that follows it, wherever they were in RAM; what is on disk stays there, and is found by its name."""
        following = [block]
        for one in following:  # grows as it is read: a history may be thousands of blocks long
            following += one.children.values()
        for one in reversed(following):
            self._strike_off(one)

    def forget_all(self, blocks: Sequence[Block]) -> None:
        """Strike off blocks that follow each other: with the first go all."""
        for block in blocks[:1]:
            self.forget(block)

    def _strike_off(self, block: Block) -> None:
        assert block.parent is not None, "the root stays"
        for mark in list(block.marks.values()):
            self.marks.strike_off(mark)
        block.rows.clear()
        del block.parent.children[block.key]
        self.ledger.struck_off(block)
        self.forgotten(block)

    def touch(self, path: Sequence[Block], breakpoints: Sequence[Breakpoint] = ()) -> None:
        """A path was used: its end goes first, and what no breakpoint comes after before what is before one."""
        for block in reversed(path):
            block.rank = max(block.rank, rank_at(block.start + 1, breakpoints))
            self.ledger.touch(block)

    # ------------------------------------------------------------------------------------------------------------------- disk

    def discard(self, item: Item) -> None:
        """Have something deleted from disk. What is in RAM stays there."""
        kept = self.disk.known.get(item)
        self.disk.remove(item)
        if kept is not None:
            self._off_disk(kept)

    def unlisted(self, items: Iterable[Item]) -> None:
        """No record needs these any more: they are deleted from disk, but for those that somebody pins all the same."""
        for item in items:
            if item not in self.disk.known or not self.disk.known[item].pins:
                self.discard(item)

    def lost(self, kept: Kept) -> None:
        """Something could not be read from disk, and is there no longer."""
        self.disk.damaged(kept)
        if kept.is_written:
            self.disk.lost(kept.item)
            self._off_disk(kept)

    def vanished(self, item: Item) -> None:
        """A file was deleted by somebody else. What is in RAM stays there, and may be written again."""
        kept = self.disk.known.get(item)
        self.disk.lost(item)
        if kept is not None:
            self._off_disk(kept)

    def bring_back(self, kept: Sequence[Kept], sparing: AbstractSet[object], *, insists: bool) -> None:
        """Give what is on disk its room in RAM, and have it read; what others wait for goes only where it `insists`.

        Raises `PoolExhaustedError`, and then nothing was ordered.
        """
        self.room.make(sum(self.ledger.size(one) for one in kept), sparing if insists else sparing | self.ledger.awaited)
        for one in kept:
            if isinstance(one, Mark):
                self.marks.make_room_for(one, insists=insists)
        self.ledger.bring_back(kept)

    def call_off(self) -> None:
        """Nobody waits any more for what is on its way from disk."""
        for kept in self.disk.reading:
            self.ledger.cancel(kept)

    def came(self, kept: Kept) -> None:
        """The device stores what was read from disk."""
        if self.ledger.came(kept):
            if isinstance(kept, Mark):
                self.marks.put_in(kept)
            self.ledger.touch(kept)

    def _off_disk(self, kept: Kept) -> None:
        self.ledger.off_disk(kept)
        if not kept.is_held and isinstance(kept, Block):
            self.forget(kept)
        elif not kept.is_held and isinstance(kept, Mark):
            self.marks.strike_off(kept)

    def _block_on_disk(self, parent: Block, key: BlockKey, packed: bytes) -> Block | None:
        """A block on disk is known by its name alone: its tokens are those it is asked for with."""
        return self.child(parent, packed) if self.disk.has_block(key) else None

    # ------------------------------------------------------------------------------------------------------------------ books

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the books agree with what the device stores: what it has not is in RAM no more, what it has too much is dropped.

        Returns a line for each difference. To be asked when the device has done everything it was told.
        """
        known_blocks, known_marks = self.stored_keys(), set(self.marks.stored)
        lost_blocks, lost_marks = known_blocks - inventory.blocks, known_marks - inventory.marks
        for block in [block for block in self.tree.blocks() if block.key in lost_blocks]:
            if block.is_stored:
                self.give_up(block)
        for key in lost_marks & set(self.marks.stored):
            self.marks.give_up(self.marks.stored[key])
        coming = self.disk.coming_keys
        extra = self.ledger.found_on_device(Kind.BLOCK, inventory.blocks, known_blocks | coming)
        extra += self.ledger.found_on_device(Kind.MARK, inventory.marks, known_marks | coming)
        lost = len(lost_blocks) + len(lost_marks)
        told = [f"{lost} blocks and marks are not on the device"] if lost else []
        return told + ([f"{extra} blocks and marks nobody knows are on the device"] if extra else [])

    def audit(self, kept: Sequence[Kept]) -> None:
        """Assert that everything that is kept is in the books of RAM and disk as what it is, and nothing else."""
        assert self.disk.known == {one.item: one for one in kept if one.is_written}
        assert self.marks.stored == {one.key: one for one in kept if isinstance(one, Mark) and one.is_stored}
        assert self.marks.used == sum(self.ledger.size(mark) for mark in self.marks.stored.values())
        self.room.audit([one for one in kept if one.is_stored and not one.pins], self.disk.is_to_write)
        self.disk.audit()

    def stored_keys(self) -> set[BlockKey]:
        """The names of all stored blocks."""
        return {block.key for block in self.tree.blocks() if block.is_stored}


def rank_at(position: int, breakpoints: Iterable[Breakpoint]) -> Rank:
    """The rank of what ends at a position: that of the highest breakpoint there or further on."""
    return max((one.rank for one in breakpoints if one.position >= position), default=Rank.PLAIN)
