"""A forward pass over rows in pages, as the layers of a model see it: where they write, and how
their attention reads.

Knows rows, pages and attention. Knows nothing of blocks' keys, plans or sampling.
"""

import enum
import functools
from collections.abc import Sequence
from typing import cast

import attrs
import mlx.core as mx
import numpy as np

from semantic_trio.adapters.mlx import attention
from semantic_trio.adapters.mlx.paged_attention import PagedAttention
from semantic_trio.adapters.mlx.pages import SCRATCH, Layers, LayerShape, PagePool
from semantic_trio.adapters.mlx.quantised import Quantised

Index = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


@attrs.define(eq=False)
class PageTable:
    """The pages of one row in one layer group, in order."""

    pool: PagePool
    pages: list[int] = attrs.field(factory=list)
    first: int = 0  # pages before these, which have left the window

    def slots(self, start: int, stop: int) -> list[int]:
        """Positions in the pool of the positions [start, stop) of the row."""
        page = self.pool.page_tokens
        return [self.pages[at // page - self.first] * page + at % page for at in range(start, stop)]

    def begin(self, length: int) -> int:
        """The first position that is kept of a row of `length`: as far as a token looks back, and
        one more, as mlx-lm's caches have it.
        """
        return 0 if self.pool.window is None else max(length - self.pool.window, 0)

    def shared(self, length: int) -> "PageTable":
        """A table of the pages that a row of `length` goes on from, each with one reader more."""
        first = self.begin(length) // self.pool.page_tokens
        pages = self.pages[first - self.first : self._up_to(length)]
        self.pool.share(pages)
        return PageTable(self.pool, pages, first)

    def own_last(self, length: int) -> None:
        """A partly filled page has one writer: replace the last page of a row of `length` by a copy
        where others read it too.
        """
        filled = length % self.pool.page_tokens
        if filled and not self.pool.is_exclusive(self.pages[-1]):
            shared = self.pages[-1]
            self.pages[-1] = self.copied(length - filled, length)
            self.pool.release([shared])

    def copied(self, start: int, stop: int) -> int:
        """A new page with the positions [start, stop), at most a page of them."""
        [page] = self.pool.allocate(1)
        first = page * self.pool.page_tokens
        self.pool.copy(self.slots(start, stop), range(first, first + stop - start))
        return page

    def extend(self, length: int, count: int) -> None:
        """Make place for `count` positions behind `length`.

        Pages that have left the window of all of them lose a reader.
        """
        if self.pool.window is not None:
            left = max(length - self.pool.window + 1, 0) // self.pool.page_tokens - self.first
            if left > 0:
                self.pool.release(self.pages[:left])
                self.pages, self.first = self.pages[left:], self.first + left
        missing = self._up_to(length + count) - len(self.pages)
        if missing > 0:
            self.pages += self.pool.allocate(missing)

    def cut(self, length: int) -> None:
        """Give the pages behind a row of `length` back."""
        kept = self._up_to(length)
        self.pool.release(self.pages[kept:])
        self.pages = self.pages[:kept]

    def release(self) -> None:
        """Give all pages back."""
        self.pool.release(self.pages)
        self.pages, self.first = [], 0

    def _up_to(self, length: int) -> int:
        """Number of pages, of those that are left, that hold the positions of a row of `length`."""
        return -(-length // self.pool.page_tokens) - self.first


@attrs.define(eq=False)
class PagedRow:
    """The pages of one row in all layer groups."""

    tables: list[PageTable]
    length: int = 0  # positions written, those of a launched pass included

    def extend(self, count: int) -> None:
        """Make the row `count` positions longer."""
        for table in self.tables:
            table.extend(self.length, count)
        self.length += count

    def rewind(self, count: int) -> None:
        """Make the row `count` positions shorter, of those that the last pass has written: pages
        that left the window before it are gone.
        """
        self.length -= count
        for table in self.tables:
            table.cut(self.length)

    def release(self) -> None:
        """Give all pages back and begin anew."""
        for table in self.tables:
            table.release()
        self.length = 0


class AttentionReading(enum.Enum):
    """Way in which attention reads the keys and values of a pass."""

    # tokens each by itself, several of one row included: by the kernel, or as MASKED where there is
    # none
    TOKENS = enum.auto()
    OWN = enum.auto()  # rows without a past: the pass's own keys and values, nothing from the pool
    # pages gathered into a padded batch, with a mask: holds the scores of a whole layer
    MASKED = enum.auto()
    # one row, its positions gathered without padding: fused attention, planned anew for each length
    EXACT = enum.auto()


@attrs.frozen(eq=False)
class Places:
    """Places of the tokens of a pass in one layer group: arrays only, so that a compiled pass takes
    them as its input.

    Positions count from the first page of a row's table.
    """

    slots: mx.array  # (rows * tokens,) position in the pool that each token is written to
    table: mx.array  # (rows, pages)
    before: mx.array  # (rows,) positions before the first token
    lengths: mx.array  # (rows,) positions once the pass is written

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        """All of them, in the order of the fields."""
        return self.slots, self.table, self.before, self.lengths

    @classmethod
    def of(
        cls, tables: Sequence[PageTable], starts: Index, counts: Index, width: int, pages: int
    ) -> "Places":
        """Return the places of rows that append `counts` tokens behind `starts`, padded to `width`
        tokens and tables of `pages` pages.
        """
        table: Index = np.full((len(starts), pages), SCRATCH, np.int32)
        before = starts.copy()
        for at, one in enumerate(tables):
            table[at, : len(one.pages)] = one.pages
            before[at] -= one.first * one.pool.page_tokens
        positions = (before[:, None] + np.arange(width)).astype(np.int32)
        slots = _slots(table, positions, counts, tables[0].pool.page_tokens)
        return cls(
            mx.array(slots),
            mx.array(table),
            mx.array(before),
            mx.array(np.maximum(before + counts, 1)),
        )


@attrs.define(eq=False)
class GroupPass:
    """A layer group in a pass."""

    layers: Layers
    window: int | None
    places: Places
    width: int  # tokens of a row in the pass, padding included
    page_tokens: int  # positions of a page
    longest: int = 0  # positions of the longest row, counted like `Places`; for EXACT alone

    @property
    def positions(self) -> int:
        """Positions of a table's pages."""
        return self.places.table.shape[1] * self.page_tokens

    @functools.cached_property
    def mask(self) -> mx.array:
        """(rows, 1, tokens, positions) True where a token looks, of the positions of a table."""
        return self._seen(self.places.before, self.positions)

    @functools.cached_property
    def is_written(self) -> mx.array:
        """(rows, 1, positions, 1) True for the positions of a row, of those of a table."""
        held = mx.arange(self.positions)
        return held[None, None, :, None] < self.places.lengths[:, None, None, None]

    @property
    def exact_mask(self) -> mx.array | str:
        """The mask of the one row of a pass over its positions without padding."""
        return "causal" if self.window is None else self.mask[..., : self.longest]

    @functools.cached_property
    def own_mask(self) -> mx.array | str:
        """The mask of rows without a past over the tokens of the pass."""
        if self.window is None or self.width <= self.window:
            return "causal"
        return self.own_seen

    @functools.cached_property
    def own_seen(self) -> mx.array:
        """`own_mask` as (1, 1, tokens, tokens), True where a token looks."""
        return self._seen(mx.zeros((1,), mx.int32), self.width)

    def _seen(self, before: mx.array, positions: int) -> mx.array:
        held, at = mx.arange(positions), (before[:, None] + mx.arange(self.width))[:, None, :, None]
        return held <= at if self.window is None else (held <= at) & (held > at - self.window)


@attrs.frozen(eq=False)
class Pass:
    """Tokens of rows that go through the model together.

    Rows and tokens beyond the real ones are padding.
    """

    reading: AttentionReading
    kernel: PagedAttention | None
    offset: mx.array  # (rows,) position of the first token of each row
    groups: Sequence[GroupPass]


@attrs.define(eq=False)
class PagedCache(attention.BatchCache):
    """A layer of a pass, in the place where the model expects a cache."""

    of: Pass
    group: GroupPass
    layer: int  # among those of the group
    shape: LayerShape

    @property
    def offset(self) -> mx.array:
        """Position of the first token of each row (rows,): the argument of rotary embeddings."""
        return self.of.offset

    @property
    def _quantised(self) -> Quantised | None:
        """The format of keys and values; None for numbers."""
        keys = self.shape.formats.keys
        return keys if isinstance(keys, Quantised) else None

    def make_mask(
        self, count: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        """The mask that a model with latent attention adds to its rotary scores.

        Returns None for other models: `attend` masks their scores.
        """
        if not self.shape.is_latent:
            return None
        match self.of.reading:
            case AttentionReading.OWN:
                return self.group.own_seen
            case AttentionReading.EXACT:
                return self.group.mask[..., : self.group.longest]
            case _:
                return self.group.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write (rows, heads, tokens, size) to the pool, and return it as every later pass will
        read it.

        A model of latents computes with what is returned: with a past that is all positions of the
        rows, (rows, 1, positions, size). Elsewhere attention reads the pool.
        """
        form, formats = self._quantised, self.shape.formats
        if (
            self.of.reading is AttentionReading.TOKENS
            and self.of.kernel is not None
            and form is not None
        ):
            self.group.layers.put(
                self.layer, self.group.places.slots, *self.of.kernel.pack(keys, values, form)
            )
            return keys, values
        kept = formats.pack(keys, values)
        self.group.layers.write(self.layer, self.group.places.slots, *kept)
        if self.shape.is_latent and self.of.reading is not AttentionReading.OWN:
            latents, rotary = self._held()
            if self.of.reading is not AttentionReading.EXACT:
                latents = mx.where(self.group.is_written, latents, 0)
            return latents, rotary
        return formats.unpack(*kept)

    def attend(
        self,
        plain: attention.Attention,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        mask: object,
        more: dict[str, object],
    ) -> mx.array:
        """See `BatchCache.attend`."""
        reading, group = self.of.reading, self.group
        if self.shape.is_latent:
            return _attend_latents(plain, queries, keys, values, scale, cast(mx.array, mask))
        if reading is AttentionReading.OWN:
            return plain(
                queries, keys, values, cache=None, scale=scale, mask=group.own_mask, **more
            )
        if (
            reading is AttentionReading.TOKENS
            and self.of.kernel is not None
            and more.keys() <= {"sinks"}
        ):
            return self.of.kernel(
                queries,
                group.layers.keys[self.layer],
                group.layers.values[self.layer],
                group.places.table,
                group.places.lengths,
                scale,
                page_tokens=group.page_tokens,
                window=group.window,
                sinks=cast(mx.array | None, more.get("sinks")),
                quantised=self._quantised,
            )
        keys, values = self._held()
        if reading is AttentionReading.EXACT:
            return plain(
                queries, keys, values, cache=None, scale=scale, mask=group.exact_mask, **more
            )
        # A reused page may hold NaN, and a weight of 0 times NaN is NaN: the values become zeros.
        values = mx.where(group.is_written, values, 0)
        return plain(queries, keys, values, cache=None, scale=scale, mask=group.mask, **more)

    def _held(self) -> tuple[mx.array, mx.array]:
        """Keys and values of all positions of the rows' pages; for EXACT, of the row's own."""
        group, arrays = self.group, self.group.layers
        keys, values = self.shape.formats.unpack(
            *(
                _gathered(array, group.places.table, group.page_tokens)
                for array in (arrays.keys[self.layer], arrays.values[self.layer])
            )
        )
        if self.of.reading is AttentionReading.EXACT:
            return keys[:, :, : group.longest], values[:, :, : group.longest]
        return keys, values


def _attend_latents(
    plain: attention.Attention,
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array,
) -> mx.array:
    """Attention with the keys, values and mask that a model with latent attention has made.

    With one token for each row, the heads are the rows of one product, which reads the latents
    once. MLX's own attention over heads of this size reads them once for each head.
    """
    if queries.shape[2] > 1:
        return plain(queries, keys, values, cache=None, scale=scale, mask=mask)
    scores = (queries * scale).swapaxes(1, 2) @ keys.swapaxes(-1, -2) + mask.swapaxes(1, 2)
    return (mx.softmax(scores, axis=-1, precise=True) @ values).swapaxes(1, 2)


def _slots(table: Index, positions: Index, counts: Index, page_tokens: int) -> Index:
    """Positions in the pool (rows * tokens,) that the tokens at these positions (rows, tokens) are
    written to: padding into the scratch page.
    """
    pages = np.take_along_axis(
        table, np.minimum(positions // page_tokens, table.shape[1] - 1), axis=1
    )
    is_real = np.arange(positions.shape[1]) < counts[:, None]
    return (
        (np.where(is_real, pages, SCRATCH) * page_tokens + positions % page_tokens)
        .reshape(-1)
        .astype(np.int32)
    )


def _gathered(layer: mx.array, table: mx.array, page_tokens: int) -> mx.array:
    """The pages of rows as (rows, heads, pages * page_tokens, size)."""
    heads, positions, size = layer.shape
    rows, pages = table.shape
    found = layer.reshape(heads, positions // page_tokens, page_tokens, size)[:, table]
    return found.transpose(1, 0, 2, 3, 4).reshape(rows, heads, pages * page_tokens, size)
