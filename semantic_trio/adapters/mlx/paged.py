"""Rows in pages of one pool per layer group: one pass for all decoding rows and short pieces of
prompts, long pieces in padded passes of few shapes.

Knows passes and the model. Knows nothing of blocks' keys, plans or sampling. A row is lists of
pages and a length; to share a prefix is to write its pages into the table. Nothing is cut out of a
row or put back into one. docs/decisions/0013 has the reasons.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import attrs
import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache, make_prompt_cache

from semantic_trio.adapters.mlx import attention
from semantic_trio.adapters.mlx.geometry import leaves
from semantic_trio.adapters.mlx.kv import RowCaches, RowSpan, places_of_logits
from semantic_trio.adapters.mlx.lora import AdapterPass
from semantic_trio.adapters.mlx.paged_attention import PagedAttention
from semantic_trio.adapters.mlx.pages import Layers, LayerShape, PagePool
from semantic_trio.adapters.mlx.passes import (
    AttentionReading,
    GroupPass,
    Index,
    PagedCache,
    PagedRow,
    PageTable,
    Pass,
    Places,
)
from semantic_trio.adapters.mlx.quantised import formats_of
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.step import PassSizes

# Tokens of a pass that reads each by itself, and rows and tokens of a pass over prompts. What is
# between is padded, so that MLX plans few shapes. On an H200 a bf16 matmul of 2 to 11 rows takes
# longer than one of 12, and one of 128 no longer than that.
TOKENS = (1, 12, 16, 24, 32, 48, 64, 96, 128)
PROMPT_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# Pages of the longest row of a pass.
TABLE_PAGES = tuple(2**power for power in range(20))
# The same where all pages of a table are gathered: the padding is copied like everything else.
GATHERED_PAGES = (1, 2, 3, *(size // 4 * part for size in TABLE_PAGES[2:] for part in range(4, 8)))
# Tokens of a piece of a prompt that rides along with the decoding rows: each reads the row's past
# by itself.
MOST_RIDING = 32
# Scores (tokens times positions) of a masked pass. MLX holds those of a whole layer at once: 512
# MiB of these for 32 heads in bf16.
MOST_MASKED_SCORES = 2**23
# Scores of one row in such a pass; a row with more is read exactly, which holds no scores but costs
# 30 ms for each new length on an H200.
MOST_MASKED_SCORES_OF_A_ROW = 2**19
# The most that a start spends on running passes of the usual shapes. The pages stay: they are less
# than the smallest budget that suits a GPU.
WARM_UP_SECONDS, WARM_UP_BYTES = 20.0, 2**29
# What a GPU is fast with.
LARGE_PASSES = PassSizes(rows=64, prompt_tokens=4096, decode_tokens=TOKENS[-1])
# The most tokens of a prompt in one pass of a model with latent attention. The model holds the
# scores of all its heads: 1 GiB for 128 heads in bf16.
LATENT_PROMPT_TOKENS = 2048

Arrays = Sequence[Any]  # arrays, and sequences of them: what `mx.compile` takes apart


@attrs.frozen
class Group:
    """Spans that go through the model in one pass."""

    reading: AttentionReading
    width: int  # tokens of the widest, padded
    members: tuple[int, ...]  # places among the spans


@attrs.define(eq=False)
class PagedLayout:
    """All rows in pages. For models whose layers keep every position, or the last ones."""

    model: Module
    sizes: PassSizes = LARGE_PASSES
    page_tokens: int = BLOCK_TOKENS  # positions of a page
    kernel: PagedAttention | None = attrs.field(factory=PagedAttention.for_device)
    # a CPU computes padding like everything else
    pads: bool = attrs.field(factory=lambda: mx.default_device() != mx.cpu)
    # Passes of TOKENS: a step of 64 rows takes 10 ms instead of 16 on an H200. A CPU's kernels
    # would be compiled by g++, for seconds.
    compiles: bool = attrs.field(factory=lambda: mx.default_device() != mx.cpu)
    adapters: AdapterPass = attrs.field(init=False, factory=AdapterPass)
    # by layer group; that of the layers that keep every position first
    pools: list[PagePool] = attrs.field(init=False)
    # for each layer of the model its group, and its place there
    _layers: list[tuple[int, int]] = attrs.field(init=False)
    _nested: RowCaches = attrs.field(init=False)  # empty caches, as the model makes them
    _head: attention.ChosenTokens = attrs.field(init=False)
    _compute: Callable[..., tuple[mx.array, list[Arrays]]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        attention.teach(self.model)
        self._head = attention.ChosenTokens.of(self.model)
        shapes, self._nested = layer_shapes(self.model), make_prompt_cache(self.model)
        windows = sorted({shape.window for shape in shapes}, key=lambda window: window or 0)
        self.pools = [
            PagePool([shape for shape in shapes if shape.window == window], self.page_tokens)
            for window in windows
        ]
        groups = [windows.index(shape.window) for shape in shapes]
        self._layers = [(group, groups[:at].count(group)) for at, group in enumerate(groups)]
        self._compute = mx.compile(self._attended) if self.compiles else self._attended
        if self._is_latent:
            self.kernel = None
            self.sizes = attrs.evolve(
                self.sizes, prompt_tokens=min(self.sizes.prompt_tokens, LATENT_PROMPT_TOKENS)
            )

    @property
    def name(self) -> str:
        """See `Layout.name`."""
        return f"pages, {'attention kernel' if self.kernel else 'gathered'}"

    def open(self) -> RowCaches:
        """See `Layout.open`."""
        return [PagedRow([PageTable(pool) for pool in self.pools])]

    def close(self, caches: RowCaches) -> None:
        """See `Layout.close`."""
        row_of(caches).release()

    def settled(self, caches: RowCaches) -> RowCaches:
        """See `Layout.settled`: pages hold it."""
        return caches

    def rewind(self, caches: RowCaches, count: int) -> None:
        """See `Layout.rewind`."""
        row_of(caches).rewind(count)

    def forward(self, tokens: mx.array, spans: Sequence[RowSpan]) -> mx.array | None:
        """See `Layout.forward`.

        Every pass but the last is launched: a write in place needs the readers before it to be done
        with the array.
        """
        ends = list(itertools.accumulate(span.count for span in spans))
        found: list[mx.array] = []
        order: list[int] = []
        for number, group in enumerate(list(self._groups(spans))):
            if number:
                mx.async_eval(found, self.arrays)
            logits = self._pass(
                tokens, group, spans, [ends[at] - spans[at].count for at in group.members]
            )
            order += [at for at in group.members for _ in range(spans[at].wanted)]
            found += [] if logits is None else [logits]
        return _in_order(found, order)

    def warm_up(self) -> int:
        """Run passes of the usual shapes, so that none is compiled or planned while somebody waits.

        They take `WARM_UP_SECONDS` and `WARM_UP_BYTES` of pages at most. Returns the number of
        passes.
        """
        until, done = time.monotonic() + WARM_UP_SECONDS, 0
        most_pages = max(WARM_UP_BYTES // sum(pool.page_bytes for pool in self.pools), 1)
        for rows, pieces in _usual_shapes(self.sizes):
            if rows * -(-sum(pieces) // self.page_tokens) > most_pages:
                continue  # its kernels are compiled by the others; only its shape is new
            caches = [self.open() for _ in range(rows)]
            for width in pieces:
                if time.monotonic() > until:
                    break
                spans = [RowSpan(row, width, wants_logits=True) for row in caches]
                mx.eval(self.forward(mx.zeros(rows * width, mx.int32), spans), self.arrays)
                done += 1
            for row in caches:
                self.close(row)
        return done

    def unread(self, rows: Sequence[RowCaches]) -> tuple[list[mx.array], list[mx.array]]:
        """See `Layout.unread`."""
        group, place = self._layers[-1]
        last = self.pools[group].layers.keys[place], self.pools[group].layers.values[place]
        return self.arrays, [mx.contiguous(array[:1, :1, :1]) for array in last] if rows else []

    @property
    def _is_latent(self) -> bool:
        return any(shape.is_latent for pool in self.pools for shape in pool.shapes)

    @property
    def sliding(self) -> list[tuple[int, int]]:
        """For each layer with a window, in the order of the model: its group, and its place
        there.
        """
        return [
            (group, place) for group, place in self._layers if self.pools[group].window is not None
        ]

    @property
    def arrays(self) -> list[mx.array]:
        """Keys and values of all layers."""
        return [array for pool in self.pools for array in pool.layers.arrays]

    def _groups(self, spans: Sequence[RowSpan]) -> Iterator[Group]:
        """The passes of a step: tokens by themselves first, then prompts of about one length."""
        kinds: dict[tuple[int, AttentionReading], list[int]] = {}
        for at, (span, reading) in enumerate(zip(spans, self._readings(spans), strict=True)):
            width = (
                1 if reading is AttentionReading.TOKENS else self._padded(span.count, PROMPT_TOKENS)
            )
            kinds.setdefault((width, reading), []).append(at)
        for (width, reading), members in sorted(kinds.items(), key=lambda kind: kind[0][0]):
            most = self._most_rows(reading, width, [self._positions(spans[at]) for at in members])
            for first in range(0, len(members), most):
                yield Group(reading, width, tuple(members[first : first + most]))

    def _readings(self, spans: Sequence[RowSpan]) -> list[AttentionReading]:
        """Choose how each span is read.

        Short pieces join the pass of the decoding rows, as many as fit into that. Latents are
        gathered anew for each token of such a pass: pieces do not join it.
        """
        decoding = sum(span.count for span in spans if span.count == 1 or span.verifies)
        free = TOKENS[-1] - decoding if self.pads and not self._is_latent else 0
        readings = []
        for span in spans:
            reading = self._reading(span)
            if reading is not AttentionReading.TOKENS and span.count <= min(MOST_RIDING, free):
                reading, free = AttentionReading.TOKENS, free - span.count
            readings.append(reading)
        return readings

    def _reading(self, span: RowSpan) -> AttentionReading:
        if span.count == 1 or span.verifies:
            return AttentionReading.TOKENS
        if not row_of(span.caches).length:
            return AttentionReading.OWN
        scores = self._padded(span.count, PROMPT_TOKENS) * self._positions(span)
        return (
            AttentionReading.MASKED
            if scores <= MOST_MASKED_SCORES_OF_A_ROW
            else AttentionReading.EXACT
        )

    def _most_rows(self, reading: AttentionReading, width: int, positions: Sequence[int]) -> int:
        """Rows that may share a pass."""
        match reading:
            case AttentionReading.MASKED:
                return max(MOST_MASKED_SCORES // (width * max(positions)), 1)
            case AttentionReading.EXACT:
                return 1
            case _:
                return len(positions)

    def _positions(self, span: RowSpan) -> int:
        """Positions of a row's pages once the span is written."""
        return -(-(row_of(span.caches).length + span.count) // self.page_tokens) * self.page_tokens

    def _padded(self, count: int, sizes: Sequence[int]) -> int:
        """The size in a list that `count` is padded to; itself where nothing is padded, or beyond
        the list.
        """
        return next((size for size in sizes if size >= count), count) if self.pads else count

    def _pass(
        self, tokens: mx.array, group: Group, spans: Sequence[RowSpan], starts: Sequence[int]
    ) -> mx.array | None:
        """Logits of those spans of a group that want them."""
        members = [spans[at] for at in group.members]
        if group.reading is AttentionReading.TOKENS:
            return self._read_tokens(tokens, members, starts)
        height, width = (
            self._padded(len(members), PROMPT_ROWS),
            members[0].count if group.reading is AttentionReading.EXACT else group.width,
        )
        rows = [row_of(span.caches) for span in members]
        counts = [span.count for span in members]
        picked, offset = _picked(counts, starts, height, width), [row.length for row in rows]
        for row, count in zip(rows, counts, strict=True):
            row.extend(count)
        places = self._places(rows, offset, counts, height, width)
        last = [
            row * width + span.count - 1 for row, span in enumerate(members) if span.wants_logits
        ]
        groups = [
            GroupPass(
                pool.layers,
                pool.window,
                where,
                width,
                self.page_tokens,
                rows[0].length - rows[0].tables[at].first * self.page_tokens,
            )
            for at, (pool, where) in enumerate(zip(self.pools, places, strict=True))
        ]
        with self._head.only(last), self.adapters.rows([span.slot for span in members], height):
            logits = self.model(
                tokens[mx.array(picked)],
                cache=self._caches(
                    Pass(group.reading, self.kernel, _offsets(offset, height), groups)
                ),
            )
        return logits[:, -1] if last else None

    def _read_tokens(
        self, tokens: mx.array, spans: Sequence[RowSpan], starts: Sequence[int]
    ) -> mx.array | None:
        """Logits as of `_pass`, with a row of the pass for each token: later tokens of a row read
        what earlier ones write in the same pass.
        """
        counts = [span.count for span in spans]
        height = self._padded(sum(counts), TOKENS)
        picked: Index = np.zeros((height, 1), np.int32)
        picked[: sum(counts), 0] = [
            start + at for start, count in zip(starts, counts, strict=True) for at in range(count)
        ]
        rows = [row_of(span.caches) for span in spans for _ in range(span.count)]
        offset = [row_of(span.caches).length + at for span in spans for at in range(span.count)]
        for span in spans:
            row_of(span.caches).extend(span.count)
        places = self._places(rows, offset, [1] * len(rows), height, 1)
        with self.adapters.rows([span.slot for span in spans for _ in range(span.count)], height):
            # A compiled pass would go on with the adapters that it was compiled with.
            compute = self._attended if self.adapters.is_used else self._compute
            logits, layers = compute(
                tokens[mx.array(picked)],
                _offsets(offset, height),
                [where.arrays for where in places],
                [(pool.layers.keys, pool.layers.values) for pool in self.pools],
            )
        for pool, (keys, values) in zip(self.pools, layers, strict=True):
            pool.layers = Layers(keys, values)
        wanted = places_of_logits(spans)
        if wanted == list(range(height)):
            return logits
        return logits[mx.array(wanted)] if wanted else None

    def _attended(
        self, tokens: mx.array, offset: mx.array, places: list[Arrays], layers: list[Arrays]
    ) -> tuple[mx.array, list[Arrays]]:
        """Logits of a pass of TOKENS (tokens, vocabulary), and the pools' arrays after it.

        A function of arrays alone: it is compiled.
        """
        held = [Layers(list(keys), list(values)) for keys, values in layers]
        groups = [
            GroupPass(arrays, pool.window, Places(*where), 1, self.page_tokens)
            for arrays, pool, where in zip(held, self.pools, places, strict=True)
        ]
        logits = self.model(
            tokens, cache=self._caches(Pass(AttentionReading.TOKENS, self.kernel, offset, groups))
        )
        return logits[:, -1], [(arrays.keys, arrays.values) for arrays in held]

    def _caches(self, now: Pass) -> list[object]:
        made = (
            PagedCache(now, now.groups[group], place, self.pools[group].shapes[place])
            for group, place in self._layers
        )
        return [_in_place_of(cache, made) for cache in self._nested]

    def _places(
        self,
        rows: Sequence[PagedRow],
        starts: Sequence[int],
        counts: Sequence[int],
        height: int,
        width: int,
    ) -> list[Places]:
        """Places of the tokens of rows that have their new pages, by layer group."""
        found = []
        for at in range(len(self.pools)):
            tables = [row.tables[at] for row in rows]
            pages = self._padded(
                max(len(table.pages) for table in tables),
                GATHERED_PAGES if self._is_latent else TABLE_PAGES,
            )
            found.append(
                Places.of(tables, _filled(starts, height), _filled(counts, height), width, pages)
            )
        return found


def _usual_shapes(sizes: PassSizes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Rows of passes and the pieces that each reads: prompts, the largest first, so that the pools
    grow but once, then what decodes.
    """
    prompts = [
        (rows, tokens)
        for tokens in PROMPT_TOKENS
        for rows in PROMPT_ROWS
        if rows <= sizes.rows and rows * tokens <= sizes.prompt_tokens
    ]
    yield from (
        (rows, (tokens,))
        for rows, tokens in sorted(prompts, key=lambda shape: -shape[0] * shape[1])
    )
    masked, exact = PROMPT_TOKENS[2], PROMPT_TOKENS[-2]
    yield 1, (masked, masked, min(exact, sizes.prompt_tokens))
    yield from ((rows, (1,)) for rows in TOKENS if rows <= sizes.rows)


def row_of(caches: RowCaches) -> PagedRow:
    """The row behind what `PagedLayout.open` gave."""
    return cast(PagedRow, caches[0])


def layer_shapes(model: Module) -> list[LayerShape]:
    """Geometry of a model's layers, learnt by showing it a token; nothing is computed.

    Raises `TypeError` for layers that pages cannot hold.
    """
    made = make_prompt_cache(model)
    model(mx.array([[0]]), cache=made)
    caches = list(leaves(made))
    if not any(isinstance(cache, KVCache) for cache in caches):
        raise TypeError("pages hold models with a layer that keeps every position")
    return [_shape(cache) for cache in caches]


def _shape(cache: object) -> LayerShape:
    if (
        isinstance(cache, KVCache | RotatingKVCache)
        and not cache.empty()
        and not getattr(cache, "keep", 0)
        and cache.values.shape[3]
    ):
        window = cache.max_size if isinstance(cache, RotatingKVCache) else None
        return LayerShape(
            cache.keys.shape[1],
            cache.keys.shape[3],
            cache.values.shape[3],
            cache.keys.dtype,
            window,
            formats_of(cache),
        )
    raise TypeError("pages hold layers that keep every position, or the last ones")


def _in_place_of(cache: object, made: Iterator[PagedCache]) -> object:
    """Return what the model gets for one of its caches: the next of those made, or a `CacheList`
    of several.
    """
    if isinstance(cache, CacheList):
        return CacheList(*(_in_place_of(part, made) for part in cache.caches))
    return next(made)


def _filled(numbers: Sequence[int], height: int) -> Index:
    """Numbers of rows, with zeros for the padding."""
    filled = np.zeros(height, np.int32)
    filled[: len(numbers)] = numbers
    return filled


def _offsets(starts: Sequence[int], height: int) -> mx.array:
    """Positions of the first tokens (height,)."""
    return mx.array(_filled(starts, height))


def _picked(counts: Sequence[int], starts: Sequence[int], height: int, width: int) -> Index:
    """Places of a pass's tokens among those of the step (height, width).

    Padding repeats a token.
    """
    picked = np.zeros((height, width), np.int32)
    for row, (count, start) in enumerate(zip(counts, starts, strict=True)):
        picked[row] = start + np.minimum(np.arange(width), count - 1)
    return picked


def _in_order(found: Sequence[mx.array], order: Sequence[int]) -> mx.array | None:
    """Logits of several passes in the order of their spans."""
    if not found:
        return None
    logits = found[0] if len(found) == 1 else mx.concatenate(list(found))
    if list(order) == sorted(order):
        return logits
    return logits[mx.array(np.argsort(np.array(order), kind="stable").astype(np.int32))]
