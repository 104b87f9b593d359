"""States of recurrent layers of several rows, stacked so that one pass takes all of them.

Knows mlx-lm's `ArraysCache`: arrays whose first axis is the row. Knows nothing of models or passes.
A state has one home: while it is in a stack, the row's own caches are empty.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import attrs
import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList

from semantic_trio.adapters.mlx.geometry import leaves
from semantic_trio.adapters.mlx.kv import RowCaches

# Shapes without the first axis, and kinds of numbers; None for arrays that are not there yet.
Form = tuple[tuple[tuple[int, ...], mx.Dtype] | None, ...]


@attrs.define(eq=False)
class StackedStates:
    """The states of some rows, a cache for each recurrent layer, with one row after the other in
    every array.
    """

    rows: list[RowCaches]
    layers: list[ArraysCache]

    @classmethod
    def gather(cls, rows: Sequence[RowCaches]) -> "StackedStates":
        """Move the states of rows of one form into a stack.

        Lazy: the arrays are copied by the pass that reads them.
        """
        layers = []
        for caches in zip(*(states_of(row) for row in rows), strict=True):
            layer = ArraysCache(len(caches[0].cache))
            layer.cache = [
                _stacked(arrays) for arrays in zip(*(cache.cache for cache in caches), strict=True)
            ]
            for cache in caches:
                cache.cache = [None] * len(cache.cache)
            layers.append(layer)
        return cls(list(rows), layers)

    def scatter(self) -> None:
        """Move the states back into the rows' own caches.

        Lazy; nothing is copied, and the stack is held until its rows have read on.
        """
        for layer, caches in zip(
            self.layers, zip(*(states_of(row) for row in self.rows), strict=True), strict=True
        ):
            parts = zip(*(_rows_of(array, len(self.rows)) for array in layer.cache), strict=True)
            for cache, part in zip(caches, parts, strict=True):
                cache.cache = list(part)

    def holds(self, row: RowCaches) -> bool:
        """True if the states of a row are in the stack."""
        return any(row is one for one in self.rows)

    def is_of(self, rows: Sequence[RowCaches]) -> bool:
        """True if the stack holds the states of these rows in this order, and no others."""
        return len(rows) == len(self.rows) and all(
            one is other for one, other in zip(rows, self.rows, strict=True)
        )

    def copy_of(self, row: RowCaches) -> RowCaches:
        """Caches with all that a row holds: its own keys and values, and its states as they are in
        the stack now.
        """
        at = next(at for at, one in enumerate(self.rows) if one is row)
        layers = iter(self.layers)
        return [_with_states(cache, layers, at) for cache in row]

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays of the stack."""
        return [array for layer in self.layers for array in layer.cache if array is not None]


def states_of(row: RowCaches) -> list[ArraysCache]:
    """The recurrent layers of a row, in the order of the model."""
    return [leaf for leaf in leaves(row) if isinstance(leaf, ArraysCache)]


def most_alike(rows: Sequence[RowCaches]) -> list[RowCaches]:
    """Return the rows whose states have the form that most of them have: states of other forms
    cannot be stacked with them.
    """
    forms = [_form(row) for row in rows]
    [(usual, _)] = Counter(forms).most_common(1)
    return [row for row, form in zip(rows, forms, strict=True) if form == usual]


def _form(row: RowCaches) -> Form:
    arrays: list[mx.array | None] = [array for cache in states_of(row) for array in cache.cache]
    return tuple(
        None if array is None else (tuple(array.shape[1:]), array.dtype) for array in arrays
    )


def _stacked(arrays: tuple[mx.array | None, ...]) -> mx.array | None:
    return None if arrays[0] is None else mx.concatenate(cast(list[mx.array], list(arrays)))


def _rows_of(array: mx.array | None, count: int) -> list[mx.array | None]:
    return [None] * count if array is None else list(mx.split(array, count))


def _with_states(cache: object, layers: Iterator[ArraysCache], at: int) -> object:
    if isinstance(cache, CacheList):
        return CacheList(*(_with_states(part, layers, at) for part in cache.caches))
    if not isinstance(cache, ArraysCache):
        return cache
    layer, copy = next(layers), ArraysCache(len(cache.cache))
    copy.cache = [None if array is None else array[at : at + 1] for array in layer.cache]
    return copy
