"""Blocks, snapshots and rows, and the states that a block or snapshot goes through.

Knows tokens and names. Knows nothing of bytes, budgets or files. `BlockStates` alone changes the
states.
"""

import bisect
import enum
from collections.abc import Iterator
from typing import ClassVar

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.step import BlockKey, Piece, SnapshotKey


class InMemory(enum.Enum):
    """State of a block or snapshot in the device's memory."""

    FREE = "free"  # nowhere
    LOADING = "loading"  # on its way from disk: its memory is allocated
    REFERENCED = "referenced"  # in live rows; a block only
    CACHED = "cached"  # stored with no row around it: it may be evicted


class OnDisk(enum.Enum):
    """State of a block or snapshot on disk."""

    NO = "no"  # nowhere
    PENDING = "pending"  # to be written: now if it is cached, else as soon as it is
    THERE = "there"


# The states that each state may be followed by.
MEMORY_TRANSITIONS = {
    InMemory.FREE: {InMemory.LOADING, InMemory.REFERENCED, InMemory.CACHED},
    InMemory.LOADING: {InMemory.FREE, InMemory.REFERENCED, InMemory.CACHED},
    InMemory.REFERENCED: {InMemory.FREE},
    InMemory.CACHED: {InMemory.FREE, InMemory.REFERENCED},
}
DISK_TRANSITIONS = {
    OnDisk.NO: {OnDisk.PENDING, OnDisk.THERE},
    OnDisk.PENDING: {OnDisk.NO, OnDisk.THERE},
    OnDisk.THERE: {OnDisk.NO},
}


@attrs.define(eq=False)
class CacheEntry:
    """A block or a snapshot in the prefix cache."""

    kind: ClassVar[Kind]
    key: bytes
    memory: InMemory = attrs.field(init=False, default=InMemory.FREE)
    disk: OnDisk = attrs.field(init=False, default=OnDisk.NO)
    # from the prefix tree: nothing leads to it any more
    is_removed: bool = attrs.field(init=False, default=False)
    pins: int = attrs.field(init=False, default=0)
    rank: Rank = attrs.field(init=False, default=Rank.PLAIN)  # the highest it was ever used with

    @property
    def item(self) -> Item:
        """Name of the entry outside of the process."""
        return Item(self.kind, self.key)

    @property
    def is_cached(self) -> bool:
        """True if it is in memory with no row around it."""
        return self.memory is InMemory.CACHED

    @property
    def is_loading(self) -> bool:
        """True if it is on its way from disk."""
        return self.memory is InMemory.LOADING

    @property
    def is_here(self) -> bool:
        """True if a row can begin with it now."""
        return self.memory in (InMemory.CACHED, InMemory.REFERENCED)

    @property
    def is_on_disk(self) -> bool:
        """True if it is on disk, wherever else it is."""
        return self.disk is OnDisk.THERE

    @property
    def is_held(self) -> bool:
        """True if its content is anywhere."""
        return self.is_here or self.is_on_disk


@attrs.define(eq=False)
class Owner:
    """An agent as its blocks know it.

    An agent and each block that it has read know each other, until the block or the agent is
    removed.
    """

    id: str
    # blocks the agent has read that are in the prefix tree
    blocks: dict[BlockKey, "Block"] = attrs.field(init=False, factory=dict, repr=False)

    def own(self, block: "Block") -> None:
        """Note that the agent has read a block."""
        block.owners.add(self)
        self.blocks[block.key] = block

    def disown_all(self) -> None:
        """Take the agent off all its blocks."""
        for block in self.blocks.values():
            block.owners.discard(self)
        self.blocks.clear()


@attrs.define(eq=False)
class Children:
    """Blocks that follow one block, by key and in the order of their packed tokens.

    Hundreds of conversations may follow one block. Those that share most with a prompt are
    neighbours of the place that the prompt would have in the order.
    """

    _by_key: dict[BlockKey, "Block"] = attrs.field(init=False, factory=dict)
    _ordered: list["Block"] = attrs.field(init=False, factory=list)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator["Block"]:
        return iter(self._by_key.values())

    def get(self, key: BlockKey) -> "Block | None":
        """Return the block of a key, if it is there."""
        return self._by_key.get(key)

    def add(self, block: "Block") -> None:
        """Add a block whose key is not there yet."""
        self._by_key[block.key] = block
        bisect.insort(self._ordered, block, key=_packed)

    def remove(self, block: "Block") -> None:
        """Remove a block that is there."""
        del self._by_key[block.key]
        del self._ordered[self._place(block.packed)]

    def nearest(self, packed: bytes) -> tuple[Iterator["Block"], Iterator["Block"]]:
        """Return the blocks before the place of packed tokens and those behind it.

        Each iterator begins at the place, and no block shares more tokens than the one before it.
        """
        place = self._place(packed)
        return (
            map(self._ordered.__getitem__, range(place - 1, -1, -1)),
            map(self._ordered.__getitem__, range(place, len(self._ordered))),
        )

    def _place(self, packed: bytes) -> int:
        return bisect.bisect_left(self._ordered, packed, key=_packed)


def _packed(block: "Block") -> bytes:
    return block.packed


@attrs.define(eq=False)
class Block(CacheEntry):
    """Tokens that follow those of its parent: `block_tokens` of them, or fewer at the end of a
    history (a partial block).

    In memory its content is in every live row that has computed or shared it, and cached when there
    is no such row: never in both.
    """

    kind = Kind.BLOCK
    key: BlockKey
    parent: "Block | None"
    start: int  # position of its first token
    packed: bytes
    # live rows that hold it, the first one first
    rows: dict[int, None] = attrs.field(init=False, factory=dict)
    # agents that have read it
    owners: set[Owner] = attrs.field(init=False, factory=set, repr=False)
    children: Children = attrs.field(init=False, factory=Children)
    # at its end or among the tokens after it
    snapshots: dict[SnapshotKey, "Snapshot"] = attrs.field(init=False, factory=dict)
    # rows whose tokens after this block make no whole block yet
    growing: dict[int, "LiveRow"] = attrs.field(init=False, factory=dict)

    @property
    def stop(self) -> int:
        """Position after its last token."""
        return self.start + len(self.packed) // TOKEN_BYTES

    @property
    def tokens(self) -> int:
        """Number of its tokens."""
        return len(self.packed) // TOKEN_BYTES

    def disown(self) -> None:
        """Take the block off all agents that have read it."""
        for owner in self.owners:
            del owner.blocks[self.key]
        self.owners.clear()

    def piece(self, stop: int, *, is_last_use: bool = False) -> Piece:
        """Return the block's content up to a position, as a piece of the cache or of a live row."""
        if self.is_cached:
            return Piece(self.start, stop, block=self.key, is_last_use=is_last_use)
        return Piece(self.start, stop, row=next(iter(self.rows)))


@attrs.define(eq=False)
class Snapshot(CacheEntry):
    """The content of sliding and recurrent layers at one position: what blocks do not hold."""

    kind = Kind.SNAPSHOT
    key: SnapshotKey
    after: Block
    packed: bytes  # the tokens between the block and the position
    is_whole: bool  # its layers still held position 0: it serves every shorter length too

    @property
    def position(self) -> int:
        """Tokens before it."""
        return self.after.stop + len(self.packed) // TOKEN_BYTES


@attrs.define(eq=False)
class LiveRow:
    """A row of the batch: its tokens, and how many of them its cache has computed."""

    number: int
    packed: bytearray
    chain: list[Block]  # whole blocks it has computed or shares, from the first on
    root: Block  # before the first block
    read: int = 0
    # tokens of its blocks that the budget counts as blocks, and not as a part of the row
    shared: int = 0
    # positions whose snapshots are of a rank: others are likely to begin there
    points: dict[int, Rank] = attrs.field(factory=dict)
    passing: Snapshot | None = None  # the last snapshot it has taken between those

    @property
    def whole(self) -> int:
        """Tokens in its whole blocks."""
        return self.chain[-1].stop if self.chain else 0

    @property
    def last(self) -> Block:
        """Last whole block of the row; the root where it has none."""
        return self.chain[-1] if self.chain else self.root

    @property
    def rest(self) -> bytes:
        """The tokens it has computed after its whole blocks, packed."""
        return bytes(self.packed[self.whole * TOKEN_BYTES : self.read * TOKEN_BYTES])
