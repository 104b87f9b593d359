"""Forms of one model's blocks and snapshots, and the check of content from outside.

Runs on the device's thread.

Learnt from the model itself, by showing it some tokens: nothing is computed, for arrays know their
shapes before they have values. Knows nothing of the numbers in them: they are whatever they are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import attrs
import mlx.core as mx
from mlx.utils import tree_map, tree_map_with_path

from semantic_trio.adapters.mlx import snapshot
from semantic_trio.adapters.mlx.content import (
    KINDS,
    NAMES,
    Tree,
    arrays_by_name,
    block_tree,
    leaf_of,
    path_of,
    snapshot_tree,
)
from semantic_trio.adapters.mlx.geometry import Leaf
from semantic_trio.adapters.mlx.kv import Layout, RowCaches, RowSpan
from semantic_trio.adapters.mlx.snapshot import Rows, State
from semantic_trio.domain.content import Content, Item, Kind, Tensor
from semantic_trio.domain.errors import CacheCorruptionError
from semantic_trio.domain.step import BlockKey, SnapshotKey

# Tokens that rows read, pass by pass. First ones, alone and together, and later ones: recurrent
# layers keep other things for some of them than for others. Different lengths: what differs between
# them is a matter of the position, and the rest is the model's.
PASSES = ((3, 1), (1, 3))

Shape = tuple[int | None, ...]  # None where sizes differ


@attrs.frozen
class Forms:
    """Form of a kind of content: the names, and under each the kinds of numbers and the shapes."""

    skeleton: object  # a tree with its own paths for leaves
    shapes: Mapping[tuple[str, str, int], Shape]  # by name, kind of number and axes
    unknown: tuple[str, ...] = ()  # how paths begin under which there may be any array, or none

    @classmethod
    def of(cls, trees: Sequence[Tree], unknown: tuple[str, ...] = ()) -> "Forms":
        """Return the form that all trees have in common."""
        shapes: dict[tuple[str, str, int], Shape] = {}
        for name, array in (named for tree in trees for named in arrays_by_name(tree).items()):
            key = (name, NAMES[array.dtype], array.ndim)
            shapes[key] = tuple(
                a if a == b else None
                for a, b in zip(array.shape, shapes.get(key, array.shape), strict=True)
            )
        return cls(tree_map_with_path(lambda path, _: path, trees[-1]), shapes, unknown)

    def read(self, content: Content) -> Tree:
        """The tree that was written. Raises `ValueError` for what is none of these forms."""
        known, given = {path_of(name) for name, _, _ in self.shapes}, sorted(map(path_of, content))
        if given != sorted(known):
            raise ValueError(
                f"there should be {sorted(known.difference(given))}, and not "
                f"{sorted(set(given) - known)}"
            )
        for name, tensor in content.items():
            self._check(name, tensor)
        leaves = {path_of(name): leaf_of(name, tensor) for name, tensor in content.items()}
        return cast(Tree, tree_map(lambda path: leaves[path], self.skeleton))

    def _check(self, name: str, tensor: Tensor) -> None:
        shape = self.shapes.get((name, tensor.dtype, len(tensor.shape)))
        if (
            name.startswith(self.unknown)
            and name in (path_of(name), f"{path_of(name)}:none")
            and tensor.dtype in KINDS
        ):
            shape = (None,) * len(tensor.shape)
        if shape is None or any(
            size not in (None, found) for size, found in zip(shape, tensor.shape, strict=True)
        ):
            raise ValueError(
                f"{name}: {tensor.dtype} {list(tensor.shape)} is not what the model keeps there"
            )
        wanted = math.prod(tensor.shape) * KINDS[tensor.dtype][0].size
        if wanted != tensor.data.nbytes:
            raise ValueError(
                f"{name}: {tensor.data.nbytes} bytes for {tensor.dtype} {list(tensor.shape)}"
            )


@attrs.frozen
class ModelForms:
    """The forms of one model's blocks and snapshots."""

    blocks: Forms
    snapshots: Forms
    block_tokens: int  # positions of a whole block
    globals: int  # layers that blocks are of, those that are never used included
    others: tuple[Leaf, ...]  # fresh caches of the layers that snapshots are of

    @classmethod
    def of(cls, layout: Layout, block_tokens: int) -> "ModelForms":
        """Learn the forms from the model."""
        others = tuple(snapshot.other_layers(layout.open()))
        # What a cache of no kind we know keeps when it has seen more, we do not know either: its
        # arrays are taken as they are.
        unknown = tuple(
            f"{layer}." for layer, cache in enumerate(others) if not snapshot.is_known(cache)
        )
        trees = [
            (block_tree(rows), snapshot_tree(position, states))
            for position, rows, states in _shown(layout)
        ]
        blocks, snapshots = (
            Forms.of([block for block, _ in trees]),
            Forms.of([state for _, state in trees], unknown),
        )
        return cls(
            blocks, snapshots, block_tokens, len(snapshot.global_layers(layout.open())), others
        )

    def read(
        self, items: Mapping[Item, Content]
    ) -> tuple[dict[BlockKey, list[Rows | None]], dict[SnapshotKey, tuple[int, list[State]]]]:
        """Blocks by layer, and snapshots as position and layers.

        Raises `CacheCorruptionError` for content of another shape.
        """
        blocks: dict[BlockKey, list[Rows | None]] = {}
        snapshots: dict[SnapshotKey, tuple[int, list[State]]] = {}
        for item, content in items.items():
            try:
                if item.kind is Kind.BLOCK:
                    blocks[item.key] = self.block(content)
                else:
                    snapshots[item.key] = self.snapshot(content)
            except ValueError as error:
                raise CacheCorruptionError(f"{item.kind} {item.key.hex()}", str(error)) from error
        return blocks, snapshots

    def block(self, content: Content) -> list[Rows | None]:
        """The layers of a block. Raises `ValueError` for what is none of this model's."""
        counts = {tensor.shape[2] for tensor in content.values() if len(tensor.shape) > 2}
        if len(counts) > 1 or not all(1 <= count <= self.block_tokens for count in counts):
            raise ValueError(f"a block of {sorted(counts)} positions")
        layers = cast(Mapping[str, Mapping[str, mx.array]], self.blocks.read(content))
        found = [layers.get(str(layer)) for layer in range(self.globals)]
        return [None if rows is None else (rows["keys"], rows["values"]) for rows in found]

    def snapshot(self, content: Content) -> tuple[int, list[State]]:
        """The position of a snapshot and its layers.

        Raises `ValueError` for what is none of this model's.
        """
        tree = self.snapshots.read(content)
        position = int.from_bytes(content["position"].data, "little", signed=True)
        layers = [cast(State, tree[str(layer)]) for layer in range(len(self.others))]
        if position < 1:
            raise ValueError(f"a snapshot at {position}")
        for cache, state in zip(self.others, layers, strict=True):
            _check_position(cache, state, position)
        return position, layers


def _shown(layout: Layout) -> Iterator[tuple[int, list[Rows | None], list[State]]]:
    """Yield what rows keep that have read some tokens: the position, the global layers, the other
    ones.
    """
    for passes in PASSES:
        caches, position = layout.open(), 0
        for count in passes:
            layout.forward(
                mx.zeros(count, dtype=mx.int32), [RowSpan(caches, count, wants_logits=False)]
            )
            position += count
            yield (
                position,
                _rows(caches, position),
                [snapshot.state_of_layer(cache) for cache in snapshot.other_layers(caches)],
            )


def _rows(caches: RowCaches, position: int) -> list[Rows | None]:
    return [snapshot.cut(cache, 0, position) for cache in snapshot.global_layers(caches)]


def _check_position(cache: Leaf, state: State, position: int) -> None:
    for name, count in snapshot.counts_at(cache, position).items():
        value = state[name]
        found = value.shape[2] if isinstance(value, mx.array) else value
        if found != count:
            raise ValueError(f"a snapshot at {position} with {name} of {found}, not {count}")
