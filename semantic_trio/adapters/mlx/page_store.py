"""Blocks of the prefix cache as pages of a pool, under their keys. Runs on the device's thread.

Knows which pages hold which block, and which the last positions of sliding layers that a snapshot
keeps. Storing either and beginning a row with it move no content: a page gets one reader more. Only
a partly filled page that others read too is copied when a row goes on from it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import attrs
import mlx.core as mx

from semantic_trio.adapters.mlx.content import Tree, block_tree, content_of, snapshot_tree
from semantic_trio.adapters.mlx.forms import ModelForms
from semantic_trio.adapters.mlx.kv import RowCaches
from semantic_trio.adapters.mlx.paged import PagedLayout, row_of
from semantic_trio.adapters.mlx.pages import PagePool
from semantic_trio.adapters.mlx.passes import PageTable
from semantic_trio.adapters.mlx.snapshot import Rows, State
from semantic_trio.domain.content import Content, Item, Kind
from semantic_trio.domain.step import BlockKey, Piece, Restore, SaveBlock, SaveSnapshot, SnapshotKey


@attrs.frozen
class StoredPage:
    """A block: its page, and how many positions of it are filled."""

    page: int
    count: int


@attrs.frozen
class StoredSnapshot:
    """The last positions of sliding layers at one position; nothing for models without."""

    position: int
    tables: list[PageTable]  # by layer group that slides

    def shared(self, length: int) -> list[PageTable]:
        """Tables for a row of `length`, which is the position, or one before it while no window has
        been left.
        """
        serves = all(length <= self.position <= (table.pool.window or 0) for table in self.tables)
        assert length == self.position or serves, (
            f"a snapshot at {self.position} does not serve at {length}"
        )
        return [table.shared(length) for table in self.tables]

    def release(self) -> None:
        """Give the pages back."""
        for table in self.tables:
            table.release()


@attrs.define(eq=False)
class PageStore:
    """The blocks and snapshots that outlive their rows."""

    layout: PagedLayout
    _blocks: dict[BlockKey, StoredPage] = attrs.field(init=False, factory=dict)
    _snapshots: dict[SnapshotKey, StoredSnapshot] = attrs.field(init=False, factory=dict)

    @property
    def pool(self) -> PagePool:
        """The pages of blocks: those of layers that keep every position."""
        return self.layout.pools[0]

    @property
    def page_tokens(self) -> int:
        """Positions of a page."""
        return self.layout.page_tokens

    @property
    def blocks(self) -> frozenset[BlockKey]:
        """Keys of the blocks that are stored."""
        return frozenset(self._blocks)

    @property
    def snapshots(self) -> frozenset[SnapshotKey]:
        """Keys of the snapshots that are stored."""
        return frozenset(self._snapshots)

    def save_blocks(self, caches: RowCaches, blocks: Sequence[SaveBlock]) -> None:
        """Store blocks of a row under their keys: its pages get another reader."""
        row = row_of(caches)
        for block in blocks:
            assert block.stop <= row.length, (
                f"positions [{block.start}, {block.stop}) of {row.length}"
            )
            if block.start % self.page_tokens:
                page = row.tables[0].copied(block.start, block.stop)
            else:
                page = row.tables[0].pages[block.start // self.page_tokens]
                self.pool.share([page])
            self._put(block.key, StoredPage(page, block.stop - block.start))

    def save_snapshot(
        self, caches: RowCaches, snapshot: SaveSnapshot, *, is_last_use: bool = False
    ) -> None:
        """Store a snapshot of a row.

        Its pages get another reader; a partly filled one is copied, unless the row ends here.
        """
        row = row_of(caches)
        assert row.length == snapshot.position, (
            f"a snapshot at {snapshot.position} of a row of {row.length} positions"
        )
        tables = [table.shared(snapshot.position) for table in row.tables[1:]]
        if not is_last_use:
            for table in tables:
                table.own_last(snapshot.position)
        self._put_snapshot(snapshot.key, StoredSnapshot(snapshot.position, tables))

    def restore(
        self, caches: RowCaches, restore: Restore, rows: Mapping[int, RowCaches], room: int
    ) -> None:
        """Give an empty row the pages of stored blocks, of other rows and of a stored snapshot."""
        row = row_of(caches)
        for piece in restore.pieces:
            assert piece.start == row.length, "pieces follow each other without gaps"
            if piece.start % self.page_tokens:
                self._append_copy(row.tables[0], piece, rows)
            else:
                row.tables[0].pages += self._shared(piece, rows)
            row.length = piece.stop
        assert row.length == restore.length, f"{row.length} positions of {restore.length}"
        if len(row.tables) > 1:
            assert restore.snapshot is not None, "sliding layers are restored from a snapshot"
            row.tables[1:] = self._snapshots[restore.snapshot].shared(restore.length)
        for table in row.tables:
            table.own_last(row.length)

    def drop(self, blocks: Iterable[BlockKey], snapshots: Iterable[SnapshotKey]) -> None:
        """Remove what is stored under these keys."""
        for key in blocks:
            self.pool.release([self._blocks.pop(key).page])
        for key in snapshots:
            self._snapshots.pop(key).release()

    def export(self, items: Iterable[Item]) -> dict[Item, Content]:
        """The content of those of these that are stored, copied out of the pool."""
        trees = {item: tree for item in items if (tree := self._tree(item)) is not None}
        mx.eval(list(trees.values()))  # waits for these alone: a pass that runs meanwhile goes on
        return {item: content_of(tree) for item, tree in trees.items()}

    def load(self, items: Mapping[Item, Content], forms: ModelForms) -> None:
        """Store blocks and snapshots from outside, all or none.

        Raises `CacheCorruptionError` for content of another shape.
        """
        blocks, snapshots = forms.read(items)
        for key, layers in blocks.items():
            self._load(key, [rows for rows in layers if rows is not None])
        for key, (position, states) in snapshots.items():
            self._load_snapshot(key, position, states)

    def drop_unreadable(self) -> None:
        """Start again with empty pools if a failed pass has left arrays that cannot be computed."""
        try:
            mx.eval(self.layout.arrays)
        except Exception:  # noqa: BLE001 - whatever a device raises for arrays of a pass that failed, they are lost
            self._blocks.clear()
            self._snapshots.clear()
            for pool in self.layout.pools:
                pool.clear()

    def _tree(self, item: Item) -> Tree | None:
        if item.kind is Kind.SNAPSHOT:
            stored = self._snapshots.get(item.key)
            return None if stored is None else snapshot_tree(stored.position, self._states(stored))
        stored_page = self._blocks.get(item.key)
        return None if stored_page is None else block_tree(self.pool.read(self._slots(stored_page)))

    def _slots(self, stored: StoredPage) -> range:
        """Positions in the pool of a stored block."""
        first = stored.page * self.page_tokens
        return range(first, first + stored.count)

    def _states(self, stored: StoredSnapshot) -> list[State]:
        """Return the states that mlx-lm's caches of the sliding layers would hold, in the order of
        the model's layers.
        """
        held = [
            table.pool.read(table.slots(table.begin(stored.position), stored.position))
            for table in stored.tables
        ]
        found = [held[group - 1][place] for group, place in self.layout.sliding]
        return [
            {"keys": keys, "values": values, "offset": stored.position, "_idx": keys.shape[2]}
            for keys, values in found
        ]

    def _load(self, key: BlockKey, layers: list[Rows]) -> None:
        [page] = self.pool.allocate(1)
        stored = StoredPage(page, count=layers[0][0].shape[2])
        self.pool.store(self._slots(stored), layers)
        self._put(key, stored)

    def _load_snapshot(self, key: SnapshotKey, position: int, states: Sequence[State]) -> None:
        tables = []
        for group, pool in enumerate(self.layout.pools[1:], 1):
            table = PageTable(pool)
            start = table.begin(position)
            table.first = start // self.page_tokens
            table.extend(start, position - start)
            layers = [
                state
                for (of, _), state in zip(self.layout.sliding, states, strict=True)
                if of == group
            ]
            pool.store(
                table.slots(start, position),
                [cast(Rows, (state["keys"], state["values"])) for state in layers],
            )
            tables.append(table)
        self._put_snapshot(key, StoredSnapshot(position, tables))

    def _put(self, key: BlockKey, stored: StoredPage) -> None:
        """Store a page that has a reader for it; the page that was stored under the key before
        loses its own.
        """
        if key in self._blocks:
            self.pool.release([self._blocks[key].page])
        self._blocks[key] = stored

    def _put_snapshot(self, key: SnapshotKey, stored: StoredSnapshot) -> None:
        if key in self._snapshots:
            self._snapshots[key].release()
        self._snapshots[key] = stored

    def _shared(self, piece: Piece, rows: Mapping[int, RowCaches]) -> list[int]:
        """The pages of a piece, with one reader more; a block in its last use hands its reader
        over.
        """
        if piece.row is not None:
            other = row_of(rows[piece.row])
            assert piece.stop <= other.length, f"positions up to {piece.stop} of {other.length}"
            pages = other.tables[0].pages[
                piece.start // self.page_tokens : -(-piece.stop // self.page_tokens)
            ]
            self.pool.share(pages)
            return pages
        assert piece.block is not None
        stored = self._blocks[piece.block]
        assert stored.count >= piece.stop - piece.start, (
            f"{stored.count} positions where {piece.stop - piece.start} are wanted"
        )
        if piece.is_last_use:
            del self._blocks[piece.block]
        else:
            self.pool.share([stored.page])
        return [stored.page]

    def _append_copy(self, table: PageTable, piece: Piece, rows: Mapping[int, RowCaches]) -> None:
        """Copy a piece that does not begin with a page behind what a table has."""
        table.own_last(piece.start)
        source = PageTable(self.pool, self._shared(piece, rows))
        first = (
            piece.start - piece.start % self.page_tokens if piece.row is not None else piece.start
        )
        table.extend(piece.start, piece.stop - piece.start)
        self.pool.copy(
            source.slots(piece.start - first, piece.stop - first),
            table.slots(piece.start, piece.stop),
        )
        source.release()
