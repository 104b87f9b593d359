"""What is kept between rows, within a budget: blocks and marks; and what goes when there is no room.

Knows the tree, the pool and the order of use. Knows nothing of agents or prompts. It orders; the device, which holds the arrays, does.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.blocks import BlockPool
from semantic_trio.domain.chain import child_key, root_key
from semantic_trio.domain.conversation import Breakpoint
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.geometry import LayerKind, ModelCacheSpec
from semantic_trio.domain.prefix import Block, LiveRow, Mark, PrefixTree, marks_between
from semantic_trio.domain.residency import Rank, Residency
from semantic_trio.domain.step import BlockKey, Inventory, MarkKey, SaveBlock, SaveMark

# Marks may take this part of the budget: a recurrent state can be as large as the keys and values of 3,000 tokens.
MARKS_SHARE = 0.25


@attrs.define(eq=False)
class Store:
    """Blocks and marks of one model."""

    spec: ModelCacheSpec
    budget_bytes: int
    forgotten: Callable[[Block], None] = lambda block: None  # told of every block that is struck off
    pool: BlockPool = attrs.field(init=False)
    tree: PrefixTree = attrs.field(init=False)
    evictions: int = attrs.field(init=False, default=0)
    marks: dict[MarkKey, Mark] = attrs.field(init=False, factory=dict)
    marks_bytes: int = attrs.field(init=False, default=0)
    _idle: Residency[Block] = attrs.field(init=False, factory=Residency)  # stored, and pinned by nobody
    _idle_marks: Residency[Mark] = attrs.field(init=False, factory=Residency)
    _drop_blocks: dict[BlockKey, None] = attrs.field(init=False, factory=dict)  # in order
    _drop_marks: dict[MarkKey, None] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.pool = BlockPool(self.spec, self.budget_bytes)
        self.tree = PrefixTree(Block(root_key(self.spec.fingerprint), None, 0, b""), self.spec.needs_marks)

    # ------------------------------------------------------------------------------------------------------------------- room

    def make_room(self, wanted: int, sparing: AbstractSet[object] = frozenset()) -> None:
        """Give up what nobody uses until so many bytes are available, but nothing in `sparing`, which has with a block all that are before it.

        Raises `PoolExhaustedError`, and then nothing was given up.
        """
        if self.pool.fits(wanted):
            return
        possible, _ = self._obtainable(sparing)
        if wanted > possible:
            raise PoolExhaustedError(wanted=wanted, free=possible, total=self.budget_bytes)
        self._give_up_until(wanted, 0, sparing)

    def _obtainable(self, sparing: AbstractSet[object]) -> tuple[int, int]:
        """Bytes and buffers that are available when everything is given up that may be."""
        blocks = [one for one in sparing if isinstance(one, Block) and one in self._idle]
        spared = sum(self._idle.size(block) for block in blocks)
        spared += sum(self._idle_marks.size(one) for one in sparing if isinstance(one, Mark))
        buffers = (len(self._idle) - len(blocks)) * self.spec.arrays_per_block
        return self.pool.available + self._idle.bytes + self._idle_marks.bytes - spared, self.pool.available_buffers + buffers

    def _give_up_until(self, wanted: int, buffers: int, sparing: AbstractSet[object]) -> None:
        victims = (victim for victim in self._victims() if victim not in sparing)
        while not self.pool.fits(wanted, buffers):
            self._give_up(next(victims))

    def evict(self) -> int:
        """Give up everything nobody uses; the bytes that were freed."""
        before = self.pool.used
        for victim in self._victims():
            self._give_up(victim)
        return before - self.pool.used

    def _victims(self) -> Iterator[Block | Mark]:
        for rank in Rank:
            yield from self._idle.of_rank(rank)
            yield from self._idle_marks.of_rank(rank)

    def _give_up(self, victim: Block | Mark) -> None:
        if isinstance(victim, Mark):
            self.forget_mark(victim)
        elif victim in self._idle:  # it may have gone with a block before it
            self.forget(victim)
            self.evictions += 1

    # ----------------------------------------------------------------------------------------------------------------- blocks

    def size(self, block: Block) -> int:
        """Bytes of a block, wherever it is."""
        return self.spec.block_bytes(block.stop - block.start)

    def child(self, parent: Block, packed: bytes) -> Block:
        """The block of these tokens after `parent`, made where there is none: then it is held by nobody yet."""
        key = child_key(parent.key, packed)
        if key not in parent.children:
            parent.children[key] = Block(key, parent, parent.stop, packed)
        return parent.children[key]

    def put_in(self, blocks: Sequence[Block], number: int, sparing: AbstractSet[object] = frozenset()) -> tuple[SaveBlock, ...]:
        """Store blocks that follow each other, whose last row is being closed.

        From the first on, as many as giving up others makes room for; the rest is forgotten.
        """
        count, total = self._as_many(blocks, sparing)
        self._give_up_until(total, count * self.spec.arrays_per_block, sparing)
        saves = tuple(self._put_in(block, number) for block in blocks[:count])
        self.forget_all(blocks[count:])
        return saves

    def _as_many(self, blocks: Sequence[Block], sparing: AbstractSet[object]) -> tuple[int, int]:
        """How many of the blocks there could be room for, and their bytes."""
        count, total = 0, 0
        possible, buffers = self._obtainable(sparing)
        for block in blocks:
            size = self.size(block)
            if total + size > possible or (count + 1) * self.spec.arrays_per_block > buffers:
                break
            count, total = count + 1, total + size
        return count, total

    def _put_in(self, block: Block, number: int) -> SaveBlock:
        self.pool.allocate(block.key, self.spec.block_amount(block.stop - block.start), self.spec.arrays_per_block)
        block.is_stored = True
        self._drop_blocks.pop(block.key, None)  # the device keeps before it drops
        if block.pins:
            self.pool.share(block.key)
        return SaveBlock(block.key, number, block.start, block.stop)

    def take_out(self, block: Block, *, drop: bool) -> None:
        """A stored block is in a row now; `drop` orders the device to give the stored copy up, where no row takes it over."""
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
            self.forget_mark(mark)
        if block.is_stored:
            self.take_out(block, drop=True)
        block.rows.clear()
        del block.parent.children[block.key]
        self.forgotten(block)

    def touch(self, path: Sequence[Block], breakpoints: Sequence[Breakpoint] = ()) -> None:
        """A path was used: its end goes first, and what no breakpoint comes after before what is before one."""
        for block in reversed(path):
            block.rank = max(block.rank, rank_at(block.start + 1, breakpoints))
            if block.is_stored and not block.pins:
                self._idle.touch(block, self.pool.size(block.key), block.rank)

    def pin(self, block: Block) -> None:
        """Keep a block whatever happens."""
        block.pins += 1
        if block.pins == 1 and block.is_stored:
            self.pool.share(block.key)
            self._idle.forget(block)

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
        self._idle.forget(block)
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
        if key in self.marks:
            self.touch_mark(self.marks[key], rank)
            return None
        spent = row.passing if replaces else None
        amount = self.spec.mark_amount(position)
        if not self._make_room_for_mark(sum(amount), self._points(row, rank), spent):
            return None
        self.pool.allocate(key, amount)
        self.marks_bytes += sum(amount)
        mark = Mark(key, after, packed, self._is_whole(position))
        self.marks[key] = after.marks[key] = mark
        self._drop_marks.pop(key, None)
        self.touch_mark(mark, rank)
        if replaces:
            row.passing = mark
        return SaveMark(key, row.number, position)

    def touch_mark(self, mark: Mark, rank: Rank = Rank.PLAIN) -> None:
        """A mark was used."""
        mark.rank = max(mark.rank, rank)
        if not mark.pins:
            self._idle_marks.touch(mark, self.pool.size(mark.key), mark.rank)

    def pin_mark(self, mark: Mark) -> None:
        """Keep a mark whatever happens."""
        mark.pins += 1
        self._idle_marks.forget(mark)

    def unpin_mark(self, mark: Mark) -> None:
        """Let a mark be given up again. One that is gone already is none of ours."""
        mark.pins -= 1
        if self.marks.get(mark.key) is mark:
            self.touch_mark(mark)

    def forget_mark(self, mark: Mark) -> None:
        """Strike a mark off."""
        self.marks_bytes -= self.pool.size(mark.key)
        self.pool.free(mark.key)
        self._idle_marks.forget(mark)
        del self.marks[mark.key], mark.after.marks[mark.key]
        self._drop_marks[mark.key] = None

    def _make_room_for_mark(self, wanted: int, sparing: AbstractSet[Mark], spent: Mark | None) -> bool:
        """Whether there is room for a mark now. Where there is none, nothing was given up."""
        limit = int(self.budget_bytes * MARKS_SHARE)
        staying = self.marks_bytes - self._idle_marks.bytes + sum(self._idle_marks.size(one) for one in sparing)
        if staying + wanted > limit or wanted > self._obtainable(sparing)[0]:
            return False
        if spent is not None:
            self._spend(spent)
        victims = (mark for mark in self._idle_marks.victims() if mark not in sparing)
        while self.marks_bytes + wanted > limit:
            self.forget_mark(next(victims))
        self._give_up_until(wanted, 0, sparing)
        return True

    def _spend(self, mark: Mark) -> None:
        if mark in self._idle_marks and mark.rank is Rank.PLAIN:
            mark.rank = Rank.SPENT
            self._idle_marks.touch(mark, self.pool.size(mark.key), mark.rank)

    def _points(self, row: LiveRow, rank: Rank) -> set[Mark]:
        """The marks of a row's points that are of this rank at least: its other marks do not take their place."""
        keys = [marks_between(row, self.tree.root, position)[0] for position in row.points]
        return {self.marks[key] for key in keys if key in self.marks and self.marks[key].rank >= rank}

    def _is_whole(self, position: int) -> bool:
        others = [group for group in self.spec.groups if group.kind is not LayerKind.GLOBAL]
        return all(group.kind is LayerKind.SLIDING and position <= group.window for group in others)

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
