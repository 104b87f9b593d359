"""Keys and values of all rows and blocks of a model, in pages of 256 positions. Runs on the device's thread.

Knows pages, their readers and the arrays they lie in. Knows nothing of rows, blocks or attention.

The arrays are written in place: MLX reuses an array's buffer when nothing else refers to the array at the time it is written. Whoever reads the pool
outside of a forward pass (a copy of a page, an export) therefore has the result computed, or at least launched, before the next write.
"""

import math
from collections.abc import Iterable, Sequence

import attrs
import mlx.core as mx

from semantic_trio.domain.geometry import BLOCK_TOKENS

PAGE = BLOCK_TOKENS
# Page that takes the keys and values of padding. Nothing ever reads it.
SCRATCH = 0
# Pages of a new pool. It doubles when it is full, layer by layer, so that growing takes one layer beside the pool.
FIRST_PAGES = 8


@attrs.frozen
class LayerShape:
    """Geometry of one attention layer."""

    heads: int  # heads of keys and values
    key_size: int
    value_size: int
    dtype: mx.Dtype


@attrs.define(eq=False)
class PagePool:
    """Pages shared by count of readers: a page is free exactly when it has none."""

    shapes: Sequence[LayerShape]
    keys: list[mx.array] = attrs.field(init=False)  # by layer: (heads, pages * 256, key_size)
    values: list[mx.array] = attrs.field(init=False)  # by layer: (heads, pages * 256, value_size)
    _readers: list[int] = attrs.field(init=False)  # by page
    _free: list[int] = attrs.field(init=False)  # the lowest number last

    def __attrs_post_init__(self) -> None:
        self.clear()

    @property
    def pages(self) -> int:
        """Pages in the arrays, the scratch page included."""
        return len(self._readers)

    @property
    def used(self) -> int:
        """Pages with at least one reader."""
        return self.pages - 1 - len(self._free)

    @property
    def arrays(self) -> list[mx.array]:
        """Keys and values of all layers."""
        return [*self.keys, *self.values]

    def clear(self) -> None:
        """Drop all content and readers."""
        self._readers = [0] * FIRST_PAGES
        self._readers[SCRATCH] = 1
        self._free = list(range(FIRST_PAGES - 1, SCRATCH, -1))
        self.keys = [mx.zeros((shape.heads, FIRST_PAGES * PAGE, shape.key_size), shape.dtype) for shape in self.shapes]
        self.values = [mx.zeros((shape.heads, FIRST_PAGES * PAGE, shape.value_size), shape.dtype) for shape in self.shapes]

    def allocate(self, count: int) -> list[int]:
        """Pages with one reader each; their content is undefined. Effects: the pool grows when too few pages are free."""
        if count > len(self._free):
            self._grow(count - len(self._free))
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._readers[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """Add a reader to pages that have one."""
        for page in pages:
            assert self._readers[page] > 0, f"page {page} is free and cannot be shared"
            self._readers[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Take a reader from pages; those that lose their last one are free."""
        for page in pages:
            assert page != SCRATCH, "the scratch page is nobody's to release"
            assert self._readers[page] > 0, f"page {page} has no reader to lose"
            self._readers[page] -= 1
            if not self._readers[page]:
                self._free.append(page)

    def is_exclusive(self, page: int) -> bool:
        """True if a page has exactly one reader."""
        return self._readers[page] == 1

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy positions of the pool to others. Launches the read, so that nothing refers to the pool when it is written."""
        read, written = mx.array(list(sources)), mx.array(list(targets))
        for arrays in (self.keys, self.values):
            found = [array[:, read] for array in arrays]
            mx.async_eval(found)
            for array, rows in zip(arrays, found, strict=True):
                array[:, written] = rows

    def read(self, page: int, count: int) -> list[tuple[mx.array, mx.array]]:
        """The first `count` positions of a page, by layer: keys and values (1, heads, count, size), copied. Launched, not waited for."""
        cut = [
            tuple(mx.contiguous(array[None, :, page * PAGE : page * PAGE + count]) for array in layer)
            for layer in zip(self.keys, self.values, strict=True)
        ]
        mx.async_eval(cut)
        return [(keys, values) for keys, values in cut]

    def store(self, page: int, layers: Sequence[tuple[mx.array, mx.array]]) -> None:
        """Write keys and values (1, heads, count, size), by layer, to the front of a page."""
        for layer, (keys, values) in enumerate(layers):
            count = keys.shape[2]
            self.keys[layer][:, page * PAGE : page * PAGE + count] = keys[0]
            self.values[layer][:, page * PAGE : page * PAGE + count] = values[0]

    def write(self, layer: int, slots: mx.array, keys: mx.array, values: mx.array) -> None:
        """Write keys and values (rows, heads, tokens, size) to positions of the pool, `slots` (rows * tokens,): row after row. Lazy."""
        self.keys[layer][:, slots] = _heads_first(keys)
        self.values[layer][:, slots] = _heads_first(values)

    def _grow(self, missing: int) -> None:
        old = self.pages
        new = 2 ** math.ceil(math.log2(old + missing))
        for arrays in (self.keys, self.values):
            for layer, array in enumerate(arrays):
                arrays[layer] = mx.concatenate([array, mx.zeros((array.shape[0], (new - old) * PAGE, array.shape[2]), array.dtype)], axis=1)
                del array
                mx.eval(arrays[layer])
        self._readers += [0] * (new - old)
        self._free = [*range(new - 1, old - 1, -1), *self._free]


def _heads_first(rows: mx.array) -> mx.array:
    """(rows, heads, tokens, size) as (heads, rows * tokens, size)."""
    count, heads, tokens, size = rows.shape
    return rows.transpose(1, 0, 2, 3).reshape(heads, count * tokens, size)
