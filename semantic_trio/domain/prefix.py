"""What is remembered, as trees of blocks, one for each salt: every path from a root is a history somebody has read.

Knows tokens, names and where each block's content is. Knows nothing of bytes, budgets or of who may stay.
"""

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import ClassVar

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, mark_key
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.residency import Rank
from semantic_trio.domain.step import BlockKey, MarkKey, Piece


@attrs.define(eq=False)
class Kept:
    """A block or a mark, and where its content is."""

    kind: ClassVar[Kind]
    key: bytes
    is_stored: bool = attrs.field(init=False, default=False)  # in RAM, with no row around it
    is_written: bool = attrs.field(init=False, default=False)  # on disk
    is_coming: bool = attrs.field(init=False, default=False)  # from disk: its room in RAM is taken
    is_owed: bool = attrs.field(init=False, default=False)  # to the disk, as soon as no row holds it
    is_struck_off: bool = attrs.field(init=False, default=False)  # nothing leads to it any more
    pins: int = attrs.field(init=False, default=0)
    rank: Rank = attrs.field(init=False, default=Rank.PLAIN)  # the highest it was ever used with

    @property
    def item(self) -> Item:
        """What it is called outside."""
        return Item(self.kind, self.key)

    @property
    def is_here(self) -> bool:
        """Whether a row can begin with it now."""
        return self.is_stored

    @property
    def is_held(self) -> bool:
        """Whether its content is anywhere."""
        return self.is_here or self.is_written


@attrs.define(eq=False)
class Block(Kept):
    """Tokens that follow those of its parent: `block_tokens` of them, or fewer at the end of a history (a tail).

    In RAM its content is in every live row that has read it, and stored when there is no such row: never in both. It may be on disk as well.
    """

    kind = Kind.BLOCK
    key: BlockKey
    parent: "Block | None"
    start: int  # position of its first token
    packed: bytes
    rows: dict[int, None] = attrs.field(init=False, factory=dict)  # live rows that hold it, the first one first
    owners: set[str] = attrs.field(init=False, factory=set)  # agents that have read it
    children: dict[BlockKey, "Block"] = attrs.field(init=False, factory=dict)
    marks: dict[MarkKey, "Mark"] = attrs.field(init=False, factory=dict)  # positions at its end or among the tokens after it
    growing: dict[int, "LiveRow"] = attrs.field(init=False, factory=dict)  # rows whose tokens after this block make no whole block yet

    @property
    def stop(self) -> int:
        """Position after its last token."""
        return self.start + len(self.packed) // TOKEN_BYTES

    @property
    def is_here(self) -> bool:
        """See `Kept.is_here`."""
        return self.is_stored or bool(self.rows)

    def piece(self, stop: int, *, is_last_use: bool = False) -> Piece:
        """Its content up to a position, from wherever it is."""
        if self.is_stored:
            return Piece(self.start, stop, block=self.key, is_last_use=is_last_use)
        return Piece(self.start, stop, row=next(iter(self.rows)))


@attrs.define(eq=False)
class Mark(Kept):
    """What blocks do not hold, kept for one position."""

    kind = Kind.MARK
    key: MarkKey
    after: Block
    packed: bytes  # the tokens between the block and the position
    is_whole: bool  # its layers still held position 0: it serves every shorter length too

    @property
    def position(self) -> int:
        """Tokens before it."""
        return self.after.stop + len(self.packed) // TOKEN_BYTES


@attrs.define(eq=False)
class LiveRow:
    """A row of the batch: its tokens, and how many of them its cache has read."""

    number: int
    packed: bytearray
    chain: list[Block]  # whole blocks it has read, from the first on
    root: Block  # before the first block
    read: int = 0
    points: dict[int, Rank] = attrs.field(factory=dict)  # positions whose marks are of a rank: others are likely to begin there
    passing: Mark | None = None  # the last mark it has set on its way

    @property
    def whole(self) -> int:
        """Tokens in its whole blocks."""
        return self.chain[-1].stop if self.chain else 0

    @property
    def last(self) -> Block:
        """Its last whole block; the root where it has none."""
        return self.chain[-1] if self.chain else self.root

    @property
    def rest(self) -> bytes:
        """The tokens it has read after its whole blocks, packed."""
        return bytes(self.packed[self.whole * TOKEN_BYTES : self.read * TOKEN_BYTES])


@attrs.frozen(eq=False)
class Match:
    """The longest part of a prompt that can be had without computing it."""

    length: int = 0
    path: tuple[Block, ...] = ()  # whole blocks, used to their ends
    part: Block | LiveRow | None = None  # holds the tokens after them
    mark: Mark | None = None
    known: int = 0  # tokens of the prompt that blocks and rows hold there, whether or not they can be begun from

    @property
    def stored(self) -> list[Block]:
        """The stored blocks that are used to their ends."""
        blocks = [block for block in self.path if block.is_stored]
        if isinstance(self.part, Block) and self.part.is_stored and self.part.stop == self.length:
            blocks.append(self.part)
        return blocks


NO_MATCH = Match()


def _is_here(kept: Kept) -> bool:
    return kept.is_here


def _is_held(kept: Kept) -> bool:
    return kept.is_held


@attrs.define(eq=False)
class PrefixTree:
    """Finds what is remembered of a prompt."""

    needs_marks: bool
    from_disk: Callable[[Block, BlockKey, bytes], Block | None]  # the block of a name and tokens, where it is on disk
    # A root is referenced by its blocks and marks and by rows, and is gone with the last of them: there are as many salts as clients choose.
    _roots: "weakref.WeakValueDictionary[BlockKey, Block]" = attrs.field(init=False, factory=weakref.WeakValueDictionary)

    def root(self, key: BlockKey) -> Block:
        """The block of no tokens that the histories of one salt follow, by its key: one object as long as it is in use."""
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = Block(key, None, 0, b"")
        return root

    @property
    def roots(self) -> list[Block]:
        """The roots in use."""
        return list(self._roots.values())

    def match(self, run: TokenRun, limit: int) -> Match:
        """The longest beginning of a prompt, of `limit` tokens at most, that a row can begin with now."""
        return self._longest(run, limit, _is_here)

    def reach(self, run: TokenRun, limit: int) -> Match:
        """The same, if all came back that is on disk."""
        return self._longest(run, limit, _is_held)

    def held(self, run: TokenRun) -> tuple[list[Block], Block | LiveRow | None, int]:
        """What there is of a run, here or on disk, whether or not a row can begin with it.

        Returns whole blocks, who holds most of the tokens after them, and how many tokens that is in all.
        """
        root = self.root(run.root)
        path = self._walk(root, run)
        part, tokens = _best_part(path[-1] if path else root, run, _is_held)
        return path, part, (path[-1].stop if path else 0) + tokens

    def blocks(self) -> Iterator[Block]:
        """All blocks, parents first."""
        pending = [block for root in self.roots for block in root.children.values()]
        while pending:
            block = pending.pop()
            yield block
            pending.extend(block.children.values())

    def _longest(self, run: TokenRun, limit: int, serves: Callable[[Kept], bool]) -> Match:
        root = self.root(run.root)
        path, part, known = self.held(run)
        if serves is not _is_held:
            path = list(itertools.takewhile(serves, path))
            part, tokens = _best_part(path[-1] if path else root, run, serves)
            known = (path[-1].stop if path else 0) + tokens
        length, mark = min(known, limit), None
        if self.needs_marks:
            length, mark = _best_mark([root, *path], run, length, serves)
        return _cut(path, part, length, mark, known)

    def _walk(self, root: Block, run: TokenRun) -> list[Block]:
        path, block = [], root
        for key in run.keys:
            child = block.children.get(key) or self.from_disk(block, key, run.block_at(block.stop))
            if child is None:
                break
            path.append(child)
            block = child
        return path


def marks_between(row: LiveRow, position: int) -> tuple[MarkKey, Block, bytes]:
    """The name of a mark at a position a row has reached, the block before it, and the tokens between."""
    after = row.root
    for block in reversed(row.chain):
        if block.stop <= position:
            after = block
            break
    packed = bytes(row.packed[after.stop * TOKEN_BYTES : position * TOKEN_BYTES])
    return mark_key(after.key, packed), after, packed


def _best_mark(path: list[Block], run: TokenRun, limit: int, serves: Callable[[Kept], bool]) -> tuple[int, Mark | None]:
    """The greatest length of at most `limit` that a mark on the way serves: none before a block can serve more than one behind it."""
    best: tuple[int, Mark | None] = (0, None)
    for block in reversed(path):
        for mark in filter(serves, block.marks.values()):
            best = max(best, (_served(mark, run, limit), mark), key=lambda pair: (pair[0], pair[1] is not None and pair[1].is_here))
        if best[0]:
            break
    return best


def _served(mark: Mark, run: TokenRun, limit: int) -> int:
    begin = mark.after.stop
    if mark.is_whole:
        return min(begin + run.alike(mark.packed, begin), limit)
    return mark.position if mark.position <= limit and run.has(mark.packed, begin) else 0


def _best_part(block: Block, run: TokenRun, serves: Callable[[Kept], bool]) -> tuple[Block | LiveRow | None, int]:
    """Who holds most of the tokens after a block; of equals, one that is here."""
    best: tuple[Block | LiveRow | None, int] = (None, 0)
    for child in sorted(filter(serves, block.children.values()), key=_is_here, reverse=True):
        best = max(best, (child, run.alike(child.packed, block.stop)), key=lambda pair: pair[1])
    for row in block.growing.values():
        best = max(best, (row, run.alike(row.rest, block.stop)), key=lambda pair: pair[1])
    return best


def _cut(path: list[Block], part: Block | LiveRow | None, length: int, mark: Mark | None, known: int) -> Match:
    """What is used of a path when only `length` tokens of it are."""
    whole = [block for block in path if block.stop <= length]
    if len(whole) < len(path):
        part = path[len(whole)]
    begins = whole[-1].stop if whole else 0
    return Match(length, tuple(whole), part if length > begins else None, mark if length else None, known)
