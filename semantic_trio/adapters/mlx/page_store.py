"""Blocks of the prefix cache as pages of a pool, under their keys. Runs on the device's thread.

Knows which page holds which block. Keeping a block and beginning a row with it move no content: a page gets one reader more. Only a partly filled
page that others read too is copied when a row goes on from it.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs
import mlx.core as mx

from semantic_trio.adapters.mlx.content import Tree, block_tree, content_of, mark_tree
from semantic_trio.adapters.mlx.forms import ModelForms
from semantic_trio.adapters.mlx.kv import RowCaches
from semantic_trio.adapters.mlx.paged import row_of
from semantic_trio.adapters.mlx.pages import PAGE, PagePool
from semantic_trio.adapters.mlx.passes import PagedRow
from semantic_trio.adapters.mlx.snapshot import Rows
from semantic_trio.domain.content import Content, Item, Kind
from semantic_trio.domain.errors import DamagedError
from semantic_trio.domain.step import BlockKey, MarkKey, Piece, Restore, SaveBlock, SaveMark


@attrs.frozen
class StoredPage:
    """A block: its page, and how many positions of it are filled."""

    page: int
    count: int


@attrs.define(eq=False)
class PageStore:
    """The blocks that outlive their rows."""

    pool: PagePool
    _blocks: dict[BlockKey, StoredPage] = attrs.field(init=False, factory=dict)
    _marks: dict[MarkKey, int] = attrs.field(init=False, factory=dict)  # positions: layers that keep every position add nothing to a snapshot

    @property
    def blocks(self) -> frozenset[BlockKey]:
        """Keys of the blocks that are stored."""
        return frozenset(self._blocks)

    @property
    def marks(self) -> frozenset[MarkKey]:
        """Keys of the snapshots that are stored."""
        return frozenset(self._marks)

    def save_blocks(self, caches: RowCaches, blocks: Sequence[SaveBlock]) -> None:
        """Store blocks of a row under their keys: its pages get another reader."""
        row = row_of(caches)
        for block in blocks:
            assert block.stop <= row.length, f"positions [{block.start}, {block.stop}) of {row.length}"
            if block.start % PAGE:
                page = self._copied(row, block.start, block.stop)
            else:
                page = row.pages[block.start // PAGE]
                self.pool.share([page])
            self._put(block.key, StoredPage(page, block.stop - block.start))

    def save_mark(self, caches: RowCaches, mark: SaveMark, *, is_last_use: bool = False) -> None:
        """Store a snapshot of a row, which is its position and nothing else."""
        row = row_of(caches)
        assert row.length == mark.position, f"a snapshot at {mark.position} of a row of {row.length} positions"
        self._marks[mark.key] = mark.position

    def restore(self, caches: RowCaches, restore: Restore, rows: Mapping[int, RowCaches], room: int) -> None:
        """Give an empty row the pages of stored blocks and of other rows."""
        row = row_of(caches)
        for piece in restore.pieces:
            assert piece.start == row.length, "pieces follow each other without gaps"
            if piece.start % PAGE:
                self._append_copy(row, piece, rows)
            else:
                row.pages += self._shared(piece, rows)
                row.length = piece.stop
        assert row.length == restore.length, f"{row.length} positions of {restore.length}"
        self._own_last(row)

    def drop(self, blocks: Iterable[BlockKey], marks: Iterable[MarkKey]) -> None:
        """Remove what is stored under these keys."""
        for key in blocks:
            self.pool.release([self._blocks.pop(key).page])
        for mark in marks:
            del self._marks[mark]

    def export(self, items: Iterable[Item]) -> dict[Item, Content]:
        """The content of those of these that are stored, copied out of the pool."""
        trees = {item: tree for item in items if (tree := self._tree(item)) is not None}
        mx.eval(list(trees.values()))  # waits for these alone: a pass that runs meanwhile goes on
        return {item: content_of(tree) for item, tree in trees.items()}

    def load(self, items: Mapping[Item, Content], forms: ModelForms) -> None:
        """Store blocks and snapshots from outside, all or none. Raises `DamagedError` for content of another shape."""
        blocks: dict[BlockKey, list[Rows | None]] = {}
        marks: dict[MarkKey, int] = {}
        for item, content in items.items():
            try:
                if item.kind is Kind.BLOCK:
                    blocks[item.key] = forms.block(content)
                else:
                    marks[item.key], _ = forms.mark(content)
            except ValueError as error:
                raise DamagedError(f"{item.kind} {item.key.hex()}", str(error)) from error
        for key, layers in blocks.items():
            self._load(key, [rows for rows in layers if rows is not None])
        self._marks.update(marks)

    def drop_unreadable(self) -> None:
        """Start again with an empty pool if a failed pass has left arrays that cannot be computed."""
        try:
            mx.eval(self.pool.arrays)
        except Exception:  # noqa: BLE001 - whatever a device raises for arrays of a pass that failed, they are lost
            self._blocks.clear()
            self.pool.clear()

    def _tree(self, item: Item) -> Tree | None:
        if item.kind is Kind.MARK:
            return mark_tree(self._marks[item.key], []) if item.key in self._marks else None
        stored = self._blocks.get(item.key)
        return None if stored is None else block_tree(self.pool.read(stored.page, stored.count))

    def _load(self, key: BlockKey, layers: list[Rows]) -> None:
        [page] = self.pool.allocate(1)
        self.pool.store(page, layers)
        self._put(key, StoredPage(page, layers[0][0].shape[2]))

    def _put(self, key: BlockKey, stored: StoredPage) -> None:
        """Store a page that has a reader for it; the page that was stored under the key before loses its own."""
        if key in self._blocks:
            self.pool.release([self._blocks[key].page])
        self._blocks[key] = stored

    def _shared(self, piece: Piece, rows: Mapping[int, RowCaches]) -> list[int]:
        """The pages of a piece, with one reader more; a block in its last use hands its reader over."""
        if piece.row is not None:
            other = row_of(rows[piece.row])
            assert piece.stop <= other.length, f"positions up to {piece.stop} of {other.length}"
            pages = other.pages[piece.start // PAGE : -(-piece.stop // PAGE)]
            self.pool.share(pages)
            return pages
        assert piece.block is not None
        stored = self._blocks[piece.block]
        assert stored.count >= piece.stop - piece.start, f"{stored.count} positions where {piece.stop - piece.start} are wanted"
        if piece.is_last_use:
            del self._blocks[piece.block]
        else:
            self.pool.share([stored.page])
        return [stored.page]

    def _own_last(self, row: PagedRow) -> None:
        """A partly filled page has one writer: the row gets a copy of its last page where others read that too."""
        if row.length % PAGE and not self.pool.is_exclusive(row.pages[-1]):
            shared = row.pages[-1]
            row.pages[-1] = self._copied(row, row.length - row.length % PAGE, row.length)
            self.pool.release([shared])

    def _append_copy(self, row: PagedRow, piece: Piece, rows: Mapping[int, RowCaches]) -> None:
        """Copy a piece that does not begin with a page behind what a row has."""
        self._own_last(row)
        source = PagedRow(self._shared(piece, rows), piece.stop)
        first = piece.start - piece.start % PAGE if piece.row is not None else piece.start
        row.extend(self.pool, piece.stop - piece.start)
        self.pool.copy(source.slots(piece.start - first, piece.stop - first), row.slots(piece.start, piece.stop))
        self.pool.release(source.pages)

    def _copied(self, row: PagedRow, start: int, stop: int) -> int:
        """A new page with the positions [start, stop) of a row, at most a page of them."""
        [page] = self.pool.allocate(1)
        self.pool.copy(row.slots(start, stop), range(page * PAGE, page * PAGE + stop - start))
        return page
