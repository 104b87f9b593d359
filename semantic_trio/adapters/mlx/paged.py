"""Rows in pages of one pool: a decoding pass for all rows at once, prompts in padded passes of few shapes.

Knows passes and the model. Knows nothing of blocks' keys, plans or sampling. A row is a list of pages and a length; to share a prefix is to write its
pages into the table. Nothing is cut out of a row or put back into one. docs/decisions/0013 has the reasons.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import cast

import attrs
import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, make_prompt_cache

from semantic_trio.adapters.mlx import attention
from semantic_trio.adapters.mlx.kv import RowCaches, Span
from semantic_trio.adapters.mlx.paged_attention import PagedAttention
from semantic_trio.adapters.mlx.pages import PAGE, LayerShape, PagePool
from semantic_trio.adapters.mlx.passes import Index, PagedCache, PagedRow, Pass, Reading
from semantic_trio.domain.step import PassSizes

# Rows of a decoding pass, and rows and tokens of a pass over prompts. What is between is padded, so that MLX plans few shapes. On an H200 a bf16
# matmul of 2 to 11 rows takes longer than one of 12.
DECODE_ROWS = (1, 12, 16, 24, 32, 48, 64, 96, 128)
PROMPT_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# Scores (tokens times positions) of a masked pass. MLX holds those of a whole layer at once: 512 MiB of these for 32 heads in bf16.
MOST_MASKED_SCORES = 2**23
# Scores of one row in such a pass; a row with more is read exactly, which holds no scores but costs 30 ms for each new length on an H200.
MOST_MASKED_SCORES_OF_A_ROW = 2**19
# What a GPU is fast with.
LARGE_PASSES = PassSizes(rows=64, prompt_tokens=4096)


@attrs.frozen
class Group:
    """Spans that go through the model in one pass."""

    reading: Reading
    width: int  # tokens of the widest, padded
    members: tuple[int, ...]  # places among the spans


@attrs.define(eq=False)
class PagedLayout:
    """All rows in pages of one pool. For models all of whose layers keep every position."""

    model: Module
    sizes: PassSizes = LARGE_PASSES
    kernel: PagedAttention | None = attrs.field(factory=PagedAttention.for_device)
    pads: bool = attrs.field(factory=lambda: mx.default_device() != mx.cpu)  # a CPU computes padding like everything else
    pool: PagePool = attrs.field(init=False)
    _head: attention.ChosenTokens = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        attention.teach(self.model)
        self._head = attention.ChosenTokens.of(self.model)
        self.pool = PagePool(layer_shapes(self.model))

    def open(self) -> RowCaches:
        """See `Layout.open`."""
        return [PagedRow()]

    def close(self, caches: RowCaches) -> None:
        """See `Layout.close`."""
        row = row_of(caches)
        self.pool.release(row.pages)
        row.pages, row.length = [], 0

    def forward(self, tokens: mx.array, spans: Sequence[Span]) -> mx.array | None:
        """See `Layout.forward`. Every pass but the last is launched: a write in place needs the readers before it to be done with the array."""
        ends = list(itertools.accumulate(span.count for span in spans))
        found: list[mx.array] = []
        order: list[int] = []
        for number, group in enumerate(list(self._groups(spans))):
            if number:
                mx.async_eval(found, self.pool.arrays)
            logits = self._pass(tokens, group, spans, [ends[at] - spans[at].count for at in group.members])
            order += [at for at in group.members if spans[at].wants_logits]
            found += [] if logits is None else [logits]
        return _in_order(found, order)

    def unread(self, rows: Sequence[RowCaches]) -> tuple[list[mx.array], list[mx.array]]:
        """See `Layout.unread`."""
        last = self.pool.keys[-1], self.pool.values[-1]
        return self.pool.arrays, [mx.contiguous(array[:1, :1, :1]) for array in last] if rows else []

    def _groups(self, spans: Sequence[Span]) -> Iterator[Group]:
        """The passes of a step: rows of one token first, then prompts of about one length."""
        kinds: dict[tuple[int, Reading], list[int]] = {}
        for at, span in enumerate(spans):
            kinds.setdefault((self._width(span), self._reading(span)), []).append(at)
        for (width, reading), members in sorted(kinds.items(), key=lambda kind: kind[0][0]):
            most = self._most_rows(reading, width, [self._positions(spans[at]) for at in members])
            for first in range(0, len(members), most):
                yield Group(reading, width, tuple(members[first : first + most]))

    def _reading(self, span: Span) -> Reading:
        if span.count == 1:
            return Reading.TOKEN
        if not row_of(span.caches).length:
            return Reading.OWN
        scores = self._width(span) * self._positions(span)
        return Reading.MASKED if scores <= MOST_MASKED_SCORES_OF_A_ROW else Reading.EXACT

    def _most_rows(self, reading: Reading, width: int, positions: Sequence[int]) -> int:
        """Rows that may share a pass."""
        match reading:
            case Reading.MASKED:
                return max(MOST_MASKED_SCORES // (width * max(positions)), 1)
            case Reading.EXACT:
                return 1
            case _:
                return len(positions)

    def _width(self, span: Span) -> int:
        return self._padded(span.count, PROMPT_TOKENS) if span.count > 1 else 1

    def _positions(self, span: Span) -> int:
        """Positions of a row's pages once the span is written."""
        return -(-(row_of(span.caches).length + span.count) // PAGE) * PAGE

    def _padded(self, count: int, sizes: Sequence[int]) -> int:
        """The size in a list that `count` is padded to; itself where nothing is padded, or beyond the list."""
        return next((size for size in sizes if size >= count), count) if self.pads else count

    def _pass(self, tokens: mx.array, group: Group, spans: Sequence[Span], starts: Sequence[int]) -> mx.array | None:
        """Logits of those spans of a group that want them."""
        members = [spans[at] for at in group.members]
        width, height = group.width, self._padded(len(members), PROMPT_ROWS if group.width > 1 else DECODE_ROWS)
        if group.reading is Reading.EXACT:
            width = members[0].count
        rows = [(row_of(span.caches), span.count) for span in members]
        now = Pass.of(self.pool, group.reading, self.kernel, rows, height, width)
        caches = [PagedCache(now, layer) for layer in range(len(self.pool.shapes))]
        last = [row * width + span.count - 1 for row, span in enumerate(members) if span.wants_logits]
        with self._head.only(last):
            logits = self.model(tokens[mx.array(_picked(members, starts, height, width))], cache=caches)
        return logits[:, -1] if last else None


def row_of(caches: RowCaches) -> PagedRow:
    """The row behind what `PagedLayout.open` gave."""
    return cast(PagedRow, caches[0])


def layer_shapes(model: Module) -> list[LayerShape]:
    """Geometry of a model's layers, learnt by showing it a token; nothing is computed. Raises `TypeError` for layers that pages cannot hold."""
    caches = make_prompt_cache(model)
    model(mx.array([[0]]), cache=caches)
    if not all(type(cache) is KVCache and not cache.empty() for cache in caches):
        raise TypeError("pages hold layers that keep every position")
    return [LayerShape(c.keys.shape[1], c.keys.shape[3], c.values.shape[3], c.keys.dtype) for c in caches]


def _picked(spans: Sequence[Span], starts: Sequence[int], height: int, width: int) -> Index:
    """Places of a pass's tokens among those of the step (height, width). Padding repeats a token."""
    picked = np.zeros((height, width), np.int32)
    for row, (span, start) in enumerate(zip(spans, starts, strict=True)):
        picked[row] = start + np.minimum(np.arange(width), span.count - 1)
    return picked


def _in_order(found: Sequence[mx.array], order: Sequence[int]) -> mx.array | None:
    """Logits of several passes in the order of their spans."""
    if not found:
        return None
    logits = found[0] if len(found) == 1 else mx.concatenate(list(found))
    if list(order) == sorted(order):
        return logits
    return logits[mx.array(np.argsort(np.array(order), kind="stable").astype(np.int32))]
