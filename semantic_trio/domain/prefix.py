"""The prefix tree: trees of blocks, one for each salt.

Every path from a root is a history that an agent has read.

Knows tokens, names and the states of blocks. Knows nothing of bytes, budgets or eviction.
"""

import itertools
import weakref
from collections.abc import Callable, Iterator

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, TokenRun, snapshot_key
from semantic_trio.domain.entries import Block, CacheEntry, LiveRow, Snapshot
from semantic_trio.domain.step import BlockKey, SnapshotKey


@attrs.frozen(eq=False)
class Match:
    """The longest part of a prompt that can be had without computing it."""

    length: int = 0
    path: tuple[Block, ...] = ()  # whole blocks, used to their ends
    part: Block | LiveRow | None = None  # holds the tokens after them
    snapshot: Snapshot | None = None
    # tokens of the prompt that blocks and rows hold there, whether or not they can be begun from
    known: int = 0


NO_MATCH = Match()


def _is_here(kept: CacheEntry) -> bool:
    return kept.is_here


def _is_held(kept: CacheEntry) -> bool:
    return kept.is_held


@attrs.define(eq=False)
class PrefixTree:
    """Finds what is remembered of a prompt."""

    needs_snapshots: bool
    # the block of a name and tokens, where it is on disk
    from_disk: Callable[[Block, BlockKey, bytes], Block | None]
    # A root is referenced by its blocks and snapshots and by rows, and is gone with the last of
    # them: there are as many salts as clients choose.
    _roots: "weakref.WeakValueDictionary[BlockKey, Block]" = attrs.field(
        init=False, factory=weakref.WeakValueDictionary
    )

    def root(self, key: BlockKey) -> Block:
        """The block of no tokens that the histories of one salt follow, by its key: one object as
        long as it is in use.
        """
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = Block(key, None, 0, b"")
        return root

    @property
    def roots(self) -> list[Block]:
        """The roots in use."""
        return list(self._roots.values())

    def match(self, run: TokenRun, limit: int) -> Match:
        """The longest beginning of a prompt, of `limit` tokens at most, that a row can begin with
        now.
        """
        return self._longest(run, limit, _is_here)

    def reach(self, run: TokenRun, limit: int) -> Match:
        """The longest beginning that a row could begin with if all came back that is on disk."""
        return self._longest(run, limit, _is_held)

    def held(self, run: TokenRun) -> tuple[list[Block], Block | LiveRow | None, int]:
        """Parts of a run that are in memory or on disk, whether or not a row can begin with them.

        Returns whole blocks, the block or row that holds most of the tokens after them, and the
        number of tokens in all.
        """
        root = self.root(run.root)
        path = self._walk(root, run)
        part, tokens = _best_part(path[-1] if path else root, run, _is_held)
        return path, part, (path[-1].stop if path else 0) + tokens

    def blocks(self) -> Iterator[Block]:
        """All blocks, parents first."""
        pending = [block for root in self.roots for block in root.children]
        while pending:
            block = pending.pop()
            yield block
            pending.extend(block.children)

    def _longest(self, run: TokenRun, limit: int, serves: Callable[[CacheEntry], bool]) -> Match:
        root = self.root(run.root)
        path, part, known = self.held(run)
        if serves is not _is_held:
            path = list(itertools.takewhile(serves, path))
            part, tokens = _best_part(path[-1] if path else root, run, serves)
            known = (path[-1].stop if path else 0) + tokens
        length, snapshot = min(known, limit), None
        if self.needs_snapshots:
            length, snapshot = _best_snapshot([root, *path], run, length, serves)
        return _cut(path, part, length, snapshot, known)

    def _walk(self, root: Block, run: TokenRun) -> list[Block]:
        path, block = [], root
        for key in run.keys:
            child = block.children.get(key) or self.from_disk(block, key, run.block_at(block.stop))
            if child is None:
                break
            path.append(child)
            block = child
        return path


def snapshot_at(row: LiveRow, position: int) -> tuple[SnapshotKey, Block, bytes]:
    """The name of a snapshot at a position a row has reached, the block before it, and the tokens
    between.
    """
    after = row.root
    for block in reversed(row.chain):
        if block.stop <= position:
            after = block
            break
    packed = bytes(row.packed[after.stop * TOKEN_BYTES : position * TOKEN_BYTES])
    return snapshot_key(after.key, packed), after, packed


def _best_snapshot(
    path: list[Block], run: TokenRun, limit: int, serves: Callable[[CacheEntry], bool]
) -> tuple[int, Snapshot | None]:
    """The greatest length of at most `limit` that a snapshot on the way serves: none before a block
    can serve more than one behind it.
    """
    best: tuple[int, Snapshot | None] = (0, None)
    for block in reversed(path):
        for snapshot in filter(serves, block.snapshots.values()):
            best = max(
                best,
                (_served(snapshot, run, limit), snapshot),
                key=lambda pair: (pair[0], pair[1] is not None and pair[1].is_here),
            )
        if best[0]:
            break
    return best


def _served(snapshot: Snapshot, run: TokenRun, limit: int) -> int:
    begin = snapshot.after.stop
    if snapshot.is_whole:
        return min(begin + run.alike(snapshot.packed, begin), limit)
    return (
        snapshot.position if snapshot.position <= limit and run.has(snapshot.packed, begin) else 0
    )


def _best_part(
    block: Block, run: TokenRun, serves: Callable[[CacheEntry], bool]
) -> tuple[Block | LiveRow | None, int]:
    """The block or row that holds most of the tokens after a block; of equals, one that is in
    memory.
    """
    child = _best_child(block, run, serves)
    best: Block | LiveRow | None = child
    most = run.alike(child.packed, block.stop) if child else 0
    for row in block.growing.values():
        best, most = max(
            (best, most), (row, run.alike(row.rest, block.stop)), key=lambda pair: pair[1]
        )
    return best, most


def _best_child(parent: Block, run: TokenRun, serves: Callable[[CacheEntry], bool]) -> Block | None:
    """The block after a parent that begins with most of the tokens there; of equals, one that is in
    memory.

    None where none begins with any.
    """
    best: Block | None = None
    most = 0
    for side in parent.children.nearest(run.block_at(parent.stop)):
        for child in filter(serves, side):
            tokens = run.alike(child.packed, parent.stop)
            if not tokens or tokens < most:
                break
            if tokens > most or child.is_here:
                best, most = child, tokens
            if child.is_here:
                break
    return best


def _cut(
    path: list[Block],
    part: Block | LiveRow | None,
    length: int,
    snapshot: Snapshot | None,
    known: int,
) -> Match:
    """The match of the first `length` tokens of a path."""
    whole = [block for block in path if block.stop <= length]
    if len(whole) < len(path):
        part = path[len(whole)]
    begins = whole[-1].stop if whole else 0
    return Match(
        length, tuple(whole), part if length > begins else None, snapshot if length else None, known
    )
