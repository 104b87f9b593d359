"""Blocks and snapshots in device memory, under their keys: what outlives the rows it was read by.

Runs on the device's thread.

Knows which arrays belong to which key, and how to move between them and a row's caches without
holding a large row twice. Decides nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
import mlx.core as mx
from mlx_lm.models.cache import KVCache

from semantic_trio.adapters.mlx import snapshot
from semantic_trio.adapters.mlx.content import Tree, block_tree, content_of, snapshot_tree
from semantic_trio.adapters.mlx.forms import ModelForms
from semantic_trio.adapters.mlx.kv import RowCaches
from semantic_trio.adapters.mlx.snapshot import Rows, State
from semantic_trio.domain.content import Content, Item, Kind
from semantic_trio.domain.step import BlockKey, Piece, Restore, SaveBlock, SaveSnapshot, SnapshotKey

# Bytes that are copied before what they were copied from is given up. A row below it moves in one
# go, and nobody waits for it; a larger one moves portion by portion, each waited for, so that this
# is all it takes beside itself.
PORTION_BYTES = 64 * 2**20


@attrs.frozen(eq=False)
class _StoredSnapshot:
    position: int
    layers: list[State]


@attrs.define(eq=False)
class WarmStore:
    """Blocks and snapshots of rows that are gone, ready to be a part of others."""

    # by global layer
    _blocks: dict[BlockKey, list[Rows | None]] = attrs.field(init=False, factory=dict)
    _snapshots: dict[SnapshotKey, _StoredSnapshot] = attrs.field(init=False, factory=dict)

    @property
    def blocks(self) -> frozenset[BlockKey]:
        """Keys of the blocks that are kept."""
        return frozenset(self._blocks)

    @property
    def snapshots(self) -> frozenset[SnapshotKey]:
        """Keys of the snapshots that are kept."""
        return frozenset(self._snapshots)

    def save_blocks(self, caches: RowCaches, blocks: Sequence[SaveBlock]) -> None:
        """Keep blocks of a row that ends here.

        Effects: empties its global layers, also where it raises; then nothing new is kept.
        """
        kept: dict[BlockKey, list[Rows | None]] = {block.key: [] for block in blocks}
        portions = _Portions()
        for cache in snapshot.global_layers(caches):
            for block in blocks:
                rows = snapshot.cut(cache, block.start, block.stop)
                kept[block.key].append(rows)
                portions.add(rows)
            cache.keys = cache.values = None
            portions.move()
        portions.dispatch()
        self._blocks.update(kept)

    def save_snapshot(
        self, caches: RowCaches, save: SaveSnapshot, *, is_last_use: bool = False
    ) -> None:
        """Keep what the layers that are not global hold now, as a snapshot at its position.

        Effects: in their last use it empties those layers as it goes, so that no row and its
        snapshot are held at once.
        """
        read = snapshot.positions_read(caches)
        assert read <= {save.position}, (
            f"a snapshot at {save.position} of a row that has read {read}"
        )
        layers, portions = [], _Portions()
        for cache in snapshot.other_layers(caches):
            layers.append(snapshot.state_of_layer(cache))
            portions.add(snapshot.arrays_in(layers[-1:]))
            if is_last_use:
                vars(cache).clear()
                portions.move()
        # before the row is appended to: a lazy copy would make that append copy too
        portions.dispatch()
        self._snapshots[save.key] = _StoredSnapshot(save.position, layers)

    def restore(
        self, caches: RowCaches, restore: Restore, rows: Mapping[int, RowCaches], room: int
    ) -> None:
        """Fill a row's fresh caches, with room for so many more positions, from what is kept and
        from other rows.
        """
        if layers := snapshot.global_layers(caches):
            _check_pieces(restore)
            self._gather(layers, [self._layers_of(piece, rows) for piece in restore.pieces], room)
        if others := snapshot.other_layers(caches):
            assert restore.snapshot is not None, (
                "layers that are not global are restored from a snapshot"
            )
            stored = self._snapshots[restore.snapshot]
            for cache, state in zip(others, stored.layers, strict=True):
                snapshot.restore_layer(cache, state, stored.position, restore.length)

    def drop(self, blocks: Iterable[BlockKey], snapshots: Iterable[SnapshotKey]) -> None:
        """Forget what is kept under these keys."""
        for key in blocks:
            del self._blocks[key]
        for key in snapshots:
            del self._snapshots[key]

    def export(self, items: Iterable[Item]) -> dict[Item, Content]:
        """The content of those of these that are kept.

        Nothing is copied: it takes memory for as long as somebody has it.
        """
        trees = {item: tree for item in items if (tree := self._tree(item)) is not None}
        mx.eval(list(trees.values()))  # waits for these alone: a pass that runs meanwhile goes on
        return {item: content_of(tree) for item, tree in trees.items()}

    def load(self, items: Mapping[Item, Content], forms: ModelForms) -> None:
        """Keep what is none of a row's, all or nothing; the arrays are copies.

        Raises `CacheCorruptionError` for what has another form.
        """
        blocks, found = forms.read(items)
        snapshots = {key: _StoredSnapshot(*parts) for key, parts in found.items()}
        mx.async_eval([*blocks.values(), *(stored.layers for stored in snapshots.values())])
        self._blocks.update(blocks)
        self._snapshots.update(snapshots)

    def drop_unreadable(self) -> None:
        """Forget what cannot be computed: it was to be cut from the results of a pass that
        failed.
        """
        self._blocks = {
            key: layers
            for key, layers in self._blocks.items()
            if _computes(snapshot.arrays_in(layers))
        }
        self._snapshots = {
            key: stored
            for key, stored in self._snapshots.items()
            if _computes(snapshot.arrays_in(stored.layers))
        }

    def _tree(self, item: Item) -> Tree | None:
        if item.kind is Kind.BLOCK:
            layers = self._blocks.get(item.key)
            return None if layers is None else block_tree(layers)
        stored = self._snapshots.get(item.key)
        return None if stored is None else snapshot_tree(stored.position, stored.layers)

    def _gather(
        self, layers: list[KVCache], sources: list[Iterator[Rows | None]], room: int
    ) -> None:
        portions = _Portions()
        for cache in layers:
            # no name for the list: what it holds is to go with the portion
            snapshot.join(cache, [next(source) for source in sources], room)
            portions.add(None if cache.empty() else (cache.keys, cache.values))
            portions.move()
        portions.dispatch()

    def _layers_of(self, piece: Piece, rows: Mapping[int, RowCaches]) -> Iterator[Rows | None]:
        """A piece, layer by layer. A block in its last use is given up as it goes."""
        if piece.row is not None:
            for cache in snapshot.global_layers(rows[piece.row]):
                yield snapshot.view(cache, piece.start, piece.stop)
            return
        assert piece.block is not None
        kept = (
            self._blocks.pop(piece.block) if piece.is_last_use else list(self._blocks[piece.block])
        )
        kept.reverse()
        while kept:
            yield _first(kept.pop(), piece.stop - piece.start)


@attrs.define(eq=False)
class _Portions:
    """Has lazy arrays computed a portion at a time, so that what they were made from can go before
    the next is made.
    """

    _lazy: list[mx.array] = attrs.field(init=False, factory=list)
    _bytes: int = attrs.field(init=False, default=0)

    def add(self, arrays: Iterable[mx.array] | None) -> None:
        for array in arrays or ():
            self._lazy.append(array)
            self._bytes += array.nbytes

    def move(self) -> None:
        """Wait for a portion that is full."""
        if self._bytes < PORTION_BYTES:
            return
        mx.eval(self._lazy)
        mx.clear_cache()  # the row's buffers, of a size that nobody asks for again
        self._lazy.clear()
        self._bytes = 0

    def dispatch(self) -> None:
        """Start on what is left."""
        mx.async_eval(self._lazy)
        self._lazy.clear()


def _check_pieces(restore: Restore) -> None:
    starts, ends = (
        [piece.start for piece in restore.pieces],
        [piece.stop for piece in restore.pieces],
    )
    assert [*starts, restore.length] == [0, *ends], (
        "pieces follow each other without gaps and hold the positions [0, length)"
    )


def _first(rows: Rows | None, count: int) -> Rows | None:
    if rows is None:
        return None
    keys, values = rows
    assert keys.shape[2] >= count > 0, f"{keys.shape[2]} positions where {count} are wanted"
    return keys[..., :count, :], values[..., :count, :]


def _computes(arrays: list[mx.array]) -> bool:
    try:
        mx.eval(arrays)
    except Exception:  # noqa: BLE001 - whatever a device raises for arrays of a pass that failed, they are lost
        return False
    return True
