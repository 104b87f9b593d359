"""Keys and values of all rows and blocks of a layer group, in pages of some positions each.

Runs on the device's thread.

A layer group is the layers that keep every position, or those with one sliding window. Knows pages,
their readers and the arrays they lie in. Knows nothing of rows, blocks or attention.

The arrays are written in place: MLX reuses an array's buffer when nothing else refers to the array
at the time it is written. Whoever reads the pool outside of a forward pass (a copy of a page, an
export) therefore has the result computed, or at least launched, before the next write.
"""

from collections.abc import Iterable, Sequence

import attrs
import mlx.core as mx

from semantic_trio.adapters.mlx.quantised import PLAIN, Formats
from semantic_trio.domain.geometry import BLOCK_TOKENS

# Page that takes the keys and values of padding. Nothing ever reads it.
SCRATCH = 0
# Pages of a new pool. A full one grows by a quarter, so that little of it is never used; layer by
# layer, so that growing takes one layer beside it.
FIRST_PAGES = 8


@attrs.frozen
class LayerShape:
    """Geometry of one attention layer."""

    heads: int  # heads of keys and values
    key_size: int  # numbers of a head; words where they are quantised
    value_size: int
    dtype: mx.Dtype
    # positions that a token looks back on, its own included; None for all
    window: int | None = None
    formats: Formats = PLAIN  # of what is written and read

    @property
    def is_latent(self) -> bool:
        """True if a page holds latents in the place of keys, and rotary parts in that of values.

        All heads of queries share both. The model itself makes keys and values of them.
        """
        return self.heads == 1 and self.key_size != self.value_size


@attrs.define(eq=False)
class Layers:
    """The arrays of a layer group.

    A forward pass replaces them by its outputs, in the same buffers.
    """

    keys: list[mx.array]  # by layer: (heads, pages * positions of a page, key_size)
    values: list[mx.array]  # by layer: (heads, pages * positions of a page, value_size)

    @property
    def arrays(self) -> list[mx.array]:
        """Keys and values of all layers."""
        return [*self.keys, *self.values]

    def write(self, layer: int, slots: mx.array, keys: mx.array, values: mx.array) -> None:
        """Write keys and values (rows, heads, tokens, size) to positions of the pool, `slots` (rows
        * tokens,): row after row.

        Lazy.
        """
        self.put(layer, slots, _heads_first(keys), _heads_first(values))

    def put(self, layer: int, slots: mx.array, keys: mx.array, values: mx.array) -> None:
        """Write keys and values (heads, positions, size) to positions of the pool. Lazy."""
        self.keys[layer][:, slots] = keys
        self.values[layer][:, slots] = values


@attrs.define(eq=False)
class PagePool:
    """Pages shared by count of readers: a page is free exactly when it has none."""

    shapes: Sequence[LayerShape]  # all of one window
    page_tokens: int = BLOCK_TOKENS  # positions of a page
    layers: Layers = attrs.field(init=False)
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
    def window(self) -> int | None:
        """Positions that a token of these layers looks back on, its own included; None for all."""
        return self.shapes[0].window

    @property
    def page_bytes(self) -> int:
        """Memory that a page takes in all layers."""
        return sum(array.nbytes for array in self.layers.arrays) // self.pages

    def clear(self) -> None:
        """Drop all content and readers."""
        self._readers = [0] * FIRST_PAGES
        self._readers[SCRATCH] = 1
        self._free = list(range(FIRST_PAGES - 1, SCRATCH, -1))
        positions = FIRST_PAGES * self.page_tokens
        self.layers = Layers(
            keys=[
                mx.zeros((shape.heads, positions, shape.key_size), shape.dtype)
                for shape in self.shapes
            ],
            values=[
                mx.zeros((shape.heads, positions, shape.value_size), shape.dtype)
                for shape in self.shapes
            ],
        )

    def allocate(self, count: int) -> list[int]:
        """Pages with one reader each; their content is undefined.

        Effects: the pool grows when too few pages are free.
        """
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
        """Copy positions of the pool to others.

        Launches the read, so that nothing refers to the pool when it is written.
        """
        read, written = mx.array(list(sources)), mx.array(list(targets))
        for arrays in (self.layers.keys, self.layers.values):
            found = [array[:, read] for array in arrays]
            mx.async_eval(found)
            for array, rows in zip(arrays, found, strict=True):
                array[:, written] = rows

    def read(self, slots: Sequence[int]) -> list[tuple[mx.array, mx.array]]:
        """Positions of the pool, by layer: keys and values (1, heads, positions, size), copied.

        Launched, not waited for.
        """
        places = mx.array(list(slots))
        found = [
            (keys[:, places][None], values[:, places][None])
            for keys, values in zip(self.layers.keys, self.layers.values, strict=True)
        ]
        mx.async_eval(found)
        return found

    def store(self, slots: Sequence[int], layers: Sequence[tuple[mx.array, mx.array]]) -> None:
        """Write keys and values (1, heads, positions, size), by layer, to positions of the pool."""
        places = mx.array(list(slots))
        for layer, (keys, values) in enumerate(layers):
            self.layers.write(layer, places, keys, values)

    def _grow(self, missing: int) -> None:
        old = self.pages
        new = old + max(missing, old // 4, FIRST_PAGES)
        positions = (new - old) * self.page_tokens
        for arrays in (self.layers.keys, self.layers.values):
            for layer, array in enumerate(arrays):
                arrays[layer] = mx.concatenate(
                    [array, mx.zeros((array.shape[0], positions, array.shape[2]), array.dtype)],
                    axis=1,
                )
                del array
                mx.eval(arrays[layer])
        self._readers += [0] * (new - old)
        self._free = [*range(new - 1, old - 1, -1), *self._free]


def _heads_first(rows: mx.array) -> mx.array:
    """(rows, heads, tokens, size) as (heads, rows * tokens, size)."""
    count, heads, tokens, size = rows.shape
    return rows.transpose(1, 0, 2, 3).reshape(heads, count * tokens, size)
