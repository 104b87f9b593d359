"""One forward pass over rows in pages, as the layers of a model see it: where they write, and how their attention reads.

Knows rows, pages and attention. Knows nothing of blocks' keys, plans or sampling.
"""

import enum
from collections.abc import Sequence

import attrs
import mlx.core as mx
import numpy as np

from semantic_trio.adapters.mlx import attention
from semantic_trio.adapters.mlx.paged_attention import PagedAttention
from semantic_trio.adapters.mlx.pages import PAGE, SCRATCH, PagePool

Index = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


@attrs.define(eq=False)
class PagedRow:
    """The pages of one row, in order."""

    pages: list[int] = attrs.field(factory=list)
    length: int = 0  # positions written, those of a launched pass included

    def slots(self, start: int, stop: int) -> list[int]:
        """Where in the pool the positions [start, stop) lie."""
        return [self.pages[at // PAGE] * PAGE + at % PAGE for at in range(start, stop)]

    def extend(self, pool: PagePool, count: int) -> None:
        """Make the row `count` positions longer, with new pages where it needs them."""
        self.length += count
        missing = -(-self.length // PAGE) - len(self.pages)
        if missing > 0:
            self.pages += pool.allocate(missing)


class Reading(enum.Enum):
    """How attention reads the keys and values of a pass."""

    TOKEN = enum.auto()  # one token per row: by the kernel, or as MASKED where there is none
    OWN = enum.auto()  # rows without a past: the pass's own keys and values, nothing from the pool
    MASKED = enum.auto()  # pages gathered into a padded batch, with a mask: holds the scores of a whole layer
    EXACT = enum.auto()  # one row, its positions gathered without padding: fused attention, planned anew for each length


@attrs.frozen(eq=False)
class Pass:
    """Where the tokens of a pass stand. Rows and tokens beyond the real ones are padding."""

    pool: PagePool
    reading: Reading
    kernel: PagedAttention | None
    offset: mx.array  # (rows,) position of the first token of each row
    slots: mx.array  # (rows * tokens,) position in the pool that each token is written to
    table: mx.array  # (rows, pages)
    lengths: mx.array  # (rows,) positions of each row once the pass is written
    longest: int  # positions of the longest row
    mask: mx.array  # (rows, 1, tokens, pages * 256) True where a token may look
    is_written: mx.array  # (rows, 1, pages * 256, 1) True for the positions of a row

    @classmethod
    def of(
        cls, pool: PagePool, reading: Reading, kernel: PagedAttention | None, rows: Sequence[tuple[PagedRow, int]], height: int, width: int
    ) -> "Pass":
        """A pass that appends so many tokens to rows, padded to `height` rows of `width` tokens.

        Effects: the rows have their new pages and lengths.
        """
        before, counts = np.zeros(height, np.int32), np.zeros(height, np.int32)
        for at, (row, count) in enumerate(rows):
            before[at], counts[at] = row.length, count
            row.extend(pool, count)
        table: Index = np.full((height, max(len(row.pages) for row, _ in rows)), SCRATCH, np.int32)
        for at, (row, _) in enumerate(rows):
            table[at, : len(row.pages)] = row.pages
        positions = (before[:, None] + np.arange(width)).astype(np.int32)
        lengths = mx.array(np.maximum(before + counts, 1))
        held = mx.arange(table.shape[1] * PAGE)
        return cls(
            pool=pool,
            reading=reading,
            kernel=kernel,
            offset=mx.array(before),
            slots=mx.array(_slots(table, positions, counts)),
            table=mx.array(table),
            lengths=lengths,
            longest=int((before + counts).max()),
            mask=held[None, None, None, :] <= mx.array(positions)[:, None, :, None],
            is_written=held[None, None, :, None] < lengths[:, None, None, None],
        )


@attrs.define(eq=False)
class PagedCache(attention.BatchCache):
    """One layer of a pass, in the place where the model expects a cache."""

    of: Pass
    layer: int

    @property
    def offset(self) -> mx.array:
        """Position of the first token of each row (rows,): the argument of rotary embeddings."""
        return self.of.offset

    def make_mask(self, count: int, return_array: bool = False, window_size: int | None = None) -> None:
        """No mask: `attend` has its own."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write (rows, heads, tokens, size) to the pool, and return it as it is."""
        self.of.pool.write(self.layer, self.of.slots, keys, values)
        return keys, values

    def attend(
        self, plain: attention.Attention, queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: object, more: dict[str, object]
    ) -> mx.array:
        """See `BatchCache.attend`."""
        now = self.of
        held = now.pool.keys[self.layer], now.pool.values[self.layer]
        if now.reading is Reading.TOKEN and now.kernel is not None and not more:
            return now.kernel(queries, *held, now.table, now.lengths, scale)
        if now.reading is Reading.OWN:
            return plain(queries, keys, values, cache=None, scale=scale, mask="causal", **more)
        keys, values = (_gathered(layer, now.table) for layer in held)
        if now.reading is Reading.EXACT:
            return plain(queries, keys[:, :, : now.longest], values[:, :, : now.longest], cache=None, scale=scale, mask="causal", **more)
        values = mx.where(now.is_written, values, 0)  # what a page held before may be no number, and 0 times that is none either
        return plain(queries, keys, values, cache=None, scale=scale, mask=now.mask, **more)


def _slots(table: Index, positions: Index, counts: Index) -> Index:
    """Where in the pool (rows * tokens,) the tokens at these positions (rows, tokens) are written: padding into the scratch page."""
    pages = np.take_along_axis(table, np.minimum(positions // PAGE, table.shape[1] - 1), axis=1)
    is_real = np.arange(positions.shape[1]) < counts[:, None]
    return (np.where(is_real, pages, SCRATCH) * PAGE + positions % PAGE).reshape(-1).astype(np.int32)


def _gathered(layer: mx.array, table: mx.array) -> mx.array:
    """The pages of rows as (rows, heads, pages * 256, size)."""
    heads, positions, size = layer.shape
    rows, pages = table.shape
    found = layer.reshape(heads, positions // PAGE, PAGE, size)[:, table]
    return found.transpose(1, 0, 2, 3, 4).reshape(rows, heads, pages * PAGE, size)
