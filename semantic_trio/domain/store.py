"""What is kept between rows, within a budget: blocks and marks; and what goes when there is no room.

Knows the tree, the pool and the order of use. Knows nothing of agents or prompts. It orders; the device, which holds the arrays, does.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.chain import TOKEN_BYTES, child_key, mark_key, root_key
from semantic_trio.domain.conversation import Breakpoint
from semantic_trio.domain.content import Item
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.geometry import LayerKind, ModelCacheSpec
from semantic_trio.domain.prefix import Block, Kept, LiveRow, Mark, PrefixTree, marks_between
from semantic_trio.domain.residency import Rank
from semantic_trio.domain.room import Room
from semantic_trio.domain.step import BlockKey, Inventory, MarkKey, SaveBlock, SaveMark

# Marks may take this part of the budget: a recurrent state can be as large as the keys and values of 3,000 tokens.
MARKS_SHARE = 0.25


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
    marks: dict[MarkKey, Mark] = attrs.field(init=False, factory=dict)  # those in RAM
    marks_bytes: int = attrs.field(init=False, default=0)
    _drop_blocks: dict[BlockKey, None] = attrs.field(init=False, factory=dict)  # in order
    _drop_marks: dict[MarkKey, None] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.pool = BlockPool(self.spec, self.budget_bytes)
        self.tree = PrefixTree(Block(root_key(self.spec.fingerprint), None, 0, b""), self.spec.needs_marks, self.disk.has_block)
        self.room = Room(self.pool, self.spec.arrays_per_block, self.give_up, lambda: self.disk.is_open)

    def give_up(self, victim: Kept) -> None:
        """Free the RAM of something stored. What is on disk stays known; what is not is struck off."""
        if isinstance(victim, Mark):
            self.forget_mark(victim)
        elif isinstance(victim, Block) and victim.is_written:
            self.take_out(victim, drop=True)
        elif isinstance(victim, Block):
            self.forget(victim)

    # ----------------------------------------------------------------------------------------------------------------- blocks

    def size(self, block: Block) -> int:
        """Bytes of a block, wherever it is."""
        return self.spec.block_bytes(block.stop - block.start)

    def bytes_of(self, kept: Kept) -> int:
        """Bytes of a block or mark, wherever it is."""
        return self.spec.mark_bytes(kept.position) if isinstance(kept, Mark) else self.size(kept) if isinstance(kept, Block) else 0

    def child(self, parent: Block, packed: bytes) -> Block:
        """The block of these tokens after `parent`, made where there is none: then it is held by nobody yet."""
        key = child_key(parent.key, packed)
        if key not in parent.children:
            parent.children[key] = Block(key, parent, parent.stop, packed)
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
            size = self.size(block)
            if total + size > possible.bytes or (count + 1) * self.spec.arrays_per_block > possible.count:
                break
            count, total = count + 1, total + size
        return count, total

    def _put_in(self, block: Block, number: int) -> SaveBlock:
        self.cancel(block)
        self.pool.allocate(block.key, self.spec.block_amount(block.stop - block.start), self.spec.arrays_per_block)
        self._is_stored(block)
        return SaveBlock(block.key, number, block.start, block.stop)

    def _is_stored(self, kept: Kept) -> None:
        kept.is_stored = True
        if isinstance(kept, Mark):
            self._drop_marks.pop(kept.key, None)
            self.marks[kept.key] = kept
            self.marks_bytes += self.pool.size(kept.key)
        else:
            self._drop_blocks.pop(kept.key, None)  # the device keeps before it drops
            if kept.pins:
                self.pool.share(kept.key)

    def take_out(self, block: Block, *, drop: bool) -> None:
        """A stored block is in a row now, or on disk alone; `drop` orders the device to give the stored copy up, where no row takes it over."""
        self.forget_write(block)
        self._free(block)
        if drop:
            self._drop_blocks[block.key] = None

    def forget(self, block: Block) -> None:
        """Strike a block off, with all that follows it, wherever they were."""
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
            self._strike_off_mark(mark)
        if block.is_stored:
            self.take_out(block, drop=True)
        self.cancel(block)
        block.rows.clear()
        del block.parent.children[block.key]
        self._unknown(block)
        self.forgotten(block)

    def _unknown(self, kept: Kept) -> None:
        kept.is_struck_off = True
        if kept.is_written:
            self.disk.known.pop(kept.item, None)

    def touch(self, path: Sequence[Block], breakpoints: Sequence[Breakpoint] = ()) -> None:
        """A path was used: its end goes first, and what no breakpoint comes after before what is before one."""
        for block in reversed(path):
            block.rank = max(block.rank, rank_at(block.start + 1, breakpoints))
            self._touch(block)

    def _touch(self, kept: Kept) -> None:
        self.disk.touch(kept.item)
        if kept.is_stored and not kept.pins:
            self.room.touch(kept, self.pool.size(kept.key))

    def pin(self, block: Block) -> None:
        """Keep a block whatever happens."""
        block.pins += 1
        if block.pins == 1 and block.is_stored:
            self.pool.share(block.key)
            self.room.blocks.forget(block)

    def unpin(self, block: Block) -> None:
        """Let a block be given up again."""
        block.pins -= 1
        if not block.pins and block.is_stored:
            self.pool.free(block.key)
            self.touch([block])

    def _free(self, block: Block) -> None:
        if block.pins:
            self.pool.free(block.key)
        self.pool.free(block.key)
        self.room.forget(block)
        block.is_stored = False

    # ------------------------------------------------------------------------------------------------------------------ marks

    def mark(self, row: LiveRow, position: int, *, replaces: bool = False) -> SaveMark | None:
        """Order a mark of a row that holds exactly `position` tokens; None where it is not needed, there already, or too large.

        Where it `replaces` the last one the row has set on its way, that goes before anything else from now on.
        """
        if not self.spec.needs_marks or not position:
            return None
        key, after, packed = marks_between(row, self.tree.root, position)
        rank = row.points.get(position, Rank.PLAIN)
        mark = after.marks.get(key)
        if mark is not None and (mark.is_stored or mark.is_coming):
            self.touch_mark(mark, rank)
            return None
        spent = row.passing if replaces else None
        if not self._make_room_for_mark(self.spec.mark_bytes(position), self._points(row, rank), spent):
            return None
        mark = mark or self.add_mark(after, packed)
        self.pool.allocate(key, self.spec.mark_amount(position))
        self._is_stored(mark)
        self.touch_mark(mark, rank)
        if replaces:
            row.passing = mark
        return SaveMark(key, row.number, position)

    def add_mark(self, after: Block, packed: bytes) -> Mark:
        """A mark so many tokens behind a block, whose content is nowhere yet."""
        key = mark_key(after.key, packed)
        mark = after.marks[key] = Mark(key, after, packed, self._is_whole(after.stop + len(packed) // TOKEN_BYTES))
        return mark

    def touch_mark(self, mark: Mark, rank: Rank = Rank.PLAIN) -> None:
        """A mark was used."""
        mark.rank = max(mark.rank, rank)
        self._touch(mark)

    def pin_mark(self, mark: Mark) -> None:
        """Keep a mark whatever happens."""
        mark.pins += 1
        self.room.marks.forget(mark)

    def unpin_mark(self, mark: Mark) -> None:
        """Let a mark be given up again."""
        mark.pins -= 1
        self.touch_mark(mark)

    def forget_mark(self, mark: Mark) -> None:
        """Give the RAM of a mark up. One that is not on disk is struck off."""
        self._free_mark(mark)
        if not mark.is_held:
            self._strike_off_mark(mark)

    def _strike_off_mark(self, mark: Mark) -> None:
        if mark.is_stored:
            self._free_mark(mark)
        self.cancel(mark)
        del mark.after.marks[mark.key]
        self._unknown(mark)

    def _free_mark(self, mark: Mark) -> None:
        self.marks_bytes -= self.pool.size(mark.key)
        self.pool.free(mark.key)
        self.forget_write(mark)
        self.room.forget(mark)
        mark.is_stored = False
        del self.marks[mark.key]
        self._drop_marks[mark.key] = None

    def _make_room_for_mark(self, wanted: int, sparing: AbstractSet[Mark] = frozenset(), spent: Mark | None = None) -> bool:
        """Whether there is room for a mark now. Where there is none, nothing was given up."""
        limit, marks = int(self.budget_bytes * MARKS_SHARE), self.room.marks
        staying = self.marks_bytes - marks.share(sparing, held_back=True).bytes
        if staying + wanted > limit or wanted > self.room.obtainable(sparing, may_lose=True).bytes:
            return False
        if spent is not None:
            self._spend(spent)
        victims = (mark for held_back in (False, True) for mark in marks.victims(held_back=held_back) if mark not in sparing)
        while self.marks_bytes + wanted > limit:
            self.forget_mark(next(victims))
        self.room.give_up_until(wanted, 0, sparing, may_lose=True)
        return True

    def _spend(self, mark: Mark) -> None:
        if mark in self.room.marks and mark.rank is Rank.PLAIN:
            mark.rank = Rank.SPENT
            self.room.marks.touch(mark, self.pool.size(mark.key), mark.rank)

    def _points(self, row: LiveRow, rank: Rank) -> set[Mark]:
        """The marks of a row's points that are of this rank at least: its other marks do not take their place."""
        keys = [marks_between(row, self.tree.root, position)[0] for position in row.points]
        return {self.marks[key] for key in keys if key in self.marks and self.marks[key].rank >= rank}

    def _is_whole(self, position: int) -> bool:
        others = [group for group in self.spec.groups if group.kind is not LayerKind.GLOBAL]
        return all(group.kind is LayerKind.SLIDING and position <= group.window for group in others)

    # ------------------------------------------------------------------------------------------------------------------- disk

    def write(self, kept: Kept) -> None:
        """Have something that is stored written to disk; until it is there it goes only where nothing else is left."""
        if self.disk.exists and kept.is_stored and not (kept.is_written or self.disk.is_to_write(kept)):
            self.room.hold_back(kept)
            self.disk.write(kept)

    def forget_write(self, kept: Kept) -> None:
        """Something need not be written."""
        self.disk.forget_write(kept)
        self.room.let_go(kept)

    def written(self, kept: Kept, size: int) -> None:
        """Something is on disk, wherever else it has gone meanwhile."""
        self.disk.added(kept.item, size)
        self.forget_write(kept)
        if kept.is_struck_off:
            self.disk.remove(kept.item)
            return
        self.is_on_disk(kept)

    def is_on_disk(self, kept: Kept) -> None:
        """Something known is found on disk."""
        kept.is_written = True
        self.disk.known[kept.item] = kept

    def discard(self, item: Item) -> None:
        """Have something deleted from disk. What is in RAM stays there."""
        kept = self.disk.known.get(item)
        self.disk.remove(item)
        if kept is not None:
            self._off_disk(kept)

    def lost(self, kept: Kept) -> None:
        """Something could not be read from disk."""
        self.disk.lost(kept.item)
        self.disk.damaged(kept)
        if kept.is_written:
            self._off_disk(kept)

    def _off_disk(self, kept: Kept) -> None:
        del self.disk.known[kept.item]
        kept.is_written = False
        self.cancel(kept)
        if not kept.is_held and isinstance(kept, Block):
            self.forget(kept)
        elif not kept.is_held and isinstance(kept, Mark):
            self._strike_off_mark(kept)

    def bring_back(self, kept: Sequence[Kept], sparing: AbstractSet[object]) -> None:
        """Give what is on disk its room in RAM, and order it to be read. Raises `PoolExhaustedError`, and then nothing was ordered."""
        blocks, marks = [one for one in kept if isinstance(one, Block)], [one for one in kept if isinstance(one, Mark)]
        wanted = sum(self.size(block) for block in blocks)
        self.room.make(wanted + sum(self.spec.mark_bytes(mark.position) for mark in marks), sparing)
        for mark in marks:
            if not self._make_room_for_mark(self.spec.mark_bytes(mark.position), {one for one in sparing if isinstance(one, Mark)}):
                raise PoolExhaustedError(wanted=self.spec.mark_bytes(mark.position), free=0, total=self.budget_bytes)
        for block in blocks:
            self.pool.allocate(block.key, self.spec.block_amount(block.stop - block.start), self.spec.arrays_per_block)
        for mark in marks:
            self.pool.allocate(mark.key, self.spec.mark_amount(mark.position))
        for one in kept:
            one.is_coming = True
            (self._drop_marks if isinstance(one, Mark) else self._drop_blocks).pop(one.key, None)  # a copy that is still there is replaced
        self.disk.read(kept)

    def came(self, kept: Kept) -> None:
        """The device stores what was read from disk. What is not wanted any more is dropped again."""
        self.disk.reading.discard(kept)
        if kept.is_coming:
            kept.is_coming = False
            self._is_stored(kept)
            self._touch(kept)
        elif kept.key not in self.pool:
            (self._drop_marks if isinstance(kept, Mark) else self._drop_blocks)[kept.key] = None

    def did_not_come(self, kept: Kept) -> None:
        """The device does not store it."""
        self.disk.reading.discard(kept)
        self.cancel(kept)

    def cancel(self, kept: Kept) -> None:
        """What is coming from disk is not wanted any more."""
        if kept.is_coming:
            kept.is_coming = False
            self.pool.free(kept.key)

    # ----------------------------------------------------------------------------------------------------------------- orders

    def take_drops(self, in_use: Collection[bytes]) -> tuple[tuple[BlockKey, ...], tuple[MarkKey, ...]]:
        """What the device is to drop, told once; what is in use a step later."""
        blocks = tuple(key for key in self._drop_blocks if key not in in_use)
        marks = tuple(key for key in self._drop_marks if key not in in_use)
        self._drop_blocks = {key: None for key in self._drop_blocks if key in in_use}
        self._drop_marks = {key: None for key in self._drop_marks if key in in_use}
        return blocks, marks

    @property
    def has_drops(self) -> bool:
        """Whether the device has something to be told."""
        return bool(self._drop_blocks or self._drop_marks)

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Make the books agree with what the device stores: what it has not is forgotten, what it has too much is dropped.

        Returns a line for each difference. To be asked when the device has done everything it was told.
        """
        known_blocks, known_marks = self.stored_keys(), set(self.marks)
        lost_blocks, lost_marks = known_blocks - inventory.blocks, known_marks - inventory.marks
        extra_blocks = inventory.blocks - known_blocks - set(self._drop_blocks)
        extra_marks = inventory.marks - known_marks - set(self._drop_marks)
        for block in [block for block in self.tree.blocks() if block.key in lost_blocks]:
            if block.is_stored:
                self.forget(block)
        for key in lost_marks & set(self.marks):
            self.forget_mark(self.marks[key])
        self._drop_blocks = dict.fromkeys([*(key for key in self._drop_blocks if key in inventory.blocks), *extra_blocks])
        self._drop_marks = dict.fromkeys([*(key for key in self._drop_marks if key in inventory.marks), *extra_marks])
        lost, extra = len(lost_blocks) + len(lost_marks), len(extra_blocks) + len(extra_marks)
        told = [f"{lost} blocks and marks are not on the device"] if lost else []
        return told + ([f"{extra} blocks and marks nobody knows are on the device"] if extra else [])

    def stored_keys(self) -> set[BlockKey]:
        """The names of all stored blocks."""
        return {block.key for block in self.tree.blocks() if block.is_stored}


def rank_at(position: int, breakpoints: Iterable[Breakpoint]) -> Rank:
    """The rank of what ends at a position: that of the highest breakpoint there or further on."""
    return max((one.rank for one in breakpoints if one.position >= position), default=Rank.PLAIN)
