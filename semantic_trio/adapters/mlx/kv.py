"""How rows of different lengths go through a model together.

Two layouts of the live KV cache behind one method. `RaggedLayout`: every row keeps the caches mlx-lm made for it, all tokens of a step go
through the model as (tokens, 1, hidden), and only attention looks at each row by itself; a row joins and leaves without a copy and nothing is
padded. `InTurnLayout`: one forward pass per row, for models whose caches cannot be looked at that way. docs/decisions/0004 has the measurements.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from semantic_trio.adapters.mlx import attention

# Caches that can be looked at row by row. Recurrent states, chunked, quantised and compound caches cannot.
RAGGED_CACHES = (KVCache, RotatingKVCache)
# Lengths of the rows the layouts are compared on, and the part of the logits' range they may differ by: rounding in half precision, far from
# what a wrong position or mask does.
PROBE_LENGTHS, PROBE_TOLERANCE = (5, 3), 0.03

# Positions a row's buffers grow by when they are full. Growing copies the row; rows that joined together and grew together would stall everybody
# (0.5 s for 8 rows of 512 tokens on two CPU cores), so neighbours grow at different times.
GROWTH = (256, 320, 384, 448, 288, 352, 416, 480)

RowCaches = list[KVCache | RotatingKVCache]  # a row's own, one per layer; other kinds of mlx-lm's caches where rows go in turn


@attrs.frozen
class Span:
    """The tokens of one row in one pass."""

    caches: RowCaches
    count: int
    wants_logits: bool  # of its last token


class Layout(Protocol):
    """Runs one forward pass over several rows."""

    @property
    def model(self) -> Module:
        """What computes it."""

    def open(self) -> RowCaches:
        """Empty caches for a row. Nothing needs to be told when it is dropped."""

    def forward(self, tokens: mx.array, spans: Sequence[Span]) -> mx.array | None:
        """Append `tokens` (total,) to the rows' caches, span after span. Lazy.

        Returns the logits (wanting spans, vocabulary) after the last token of each span that wants them, None when none does.
        """


@attrs.define(eq=False)
class InTurnLayout:
    """One forward pass per row."""

    model: Module

    def open(self) -> RowCaches:
        """See `Layout.open`."""
        caches: RowCaches = make_prompt_cache(self.model)
        return caches

    def forward(self, tokens: mx.array, spans: Sequence[Span]) -> mx.array | None:
        """See `Layout.forward`."""
        wanted = []
        ends = itertools.accumulate(span.count for span in spans)
        for span, end in zip(spans, ends, strict=True):
            logits = self.model(tokens[None, end - span.count : end], cache=span.caches)
            if span.wants_logits:
                wanted.append(logits[:, -1])
        return mx.concatenate(wanted) if wanted else None


@attrs.define(eq=False)
class RaggedLayout:
    """All rows in one pass; only attention looks at each by itself."""

    model: Module
    _head: attention.ChosenTokens = attrs.field(init=False)
    _growth: Iterator[int] = attrs.field(init=False, factory=lambda: itertools.cycle(GROWTH))

    def __attrs_post_init__(self) -> None:
        attention.teach(self.model)
        self._head = attention.ChosenTokens.of(self.model)

    def open(self) -> RowCaches:
        """See `Layout.open`."""
        caches: RowCaches = make_prompt_cache(self.model)
        growth = next(self._growth)
        for cache in caches:
            cache.step = growth
        return caches

    def forward(self, tokens: mx.array, spans: Sequence[Span]) -> mx.array | None:
        """See `Layout.forward`."""
        counts = [span.count for span in spans]
        positions = mx.array([span.caches[0].offset + i for span in spans for i in range(span.count)])
        layers = zip(*(span.caches for span in spans), strict=True)
        caches = [attention.RaggedCache(list(layer), counts, positions) for layer in layers]
        ends = itertools.accumulate(counts)
        last = [end - 1 for span, end in zip(spans, ends, strict=True) if span.wants_logits]
        with self._head.only(last):
            logits = self.model(tokens[:, None], cache=caches)
        return logits[:, -1] if last else None


def choose_layout(model: Module) -> Layout:
    """The best layout that computes what the model computes alone, shown on two short rows at once. Effects: loads lazy weights."""
    in_turn = InTurnLayout(model)
    if not all(type(cache) in RAGGED_CACHES for cache in in_turn.open()):
        return in_turn
    ragged = RaggedLayout(model)
    try:
        agree = _agree(_probe(ragged), _probe(in_turn))
    except (AttributeError, IndexError, TypeError, ValueError):
        # Models that touch keys outside of attention (multi-head latent attention) stumble over rows of different lengths.
        agree = False
    return ragged if agree else in_turn


def state_of(caches: RowCaches) -> list[mx.array]:
    """The arrays a row's caches hold now."""
    leaves = cast(list[tuple[str, object]], tree_flatten([cache.state for cache in caches if not cache.empty()]))
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]


def proofs_of(caches: RowCaches) -> list[mx.array]:
    """A number out of each array of the last layer: they are there when the pass that wrote it is done.

    The arrays themselves are no good for that: the next pass writes into them, and whoever waits for them waits for it.
    """
    last = next((cache for cache in reversed(caches) if not cache.empty()), None)
    return [mx.contiguous(array[tuple([slice(1)] * array.ndim)]) for array in state_of([last] if last else [])]


def _probe(layout: Layout) -> mx.array:
    rows = [layout.open() for _ in PROBE_LENGTHS]
    tokens = mx.arange(sum(PROBE_LENGTHS)) + 1
    layout.forward(tokens, [Span(row, n, wants_logits=False) for row, n in zip(rows, PROBE_LENGTHS, strict=True)])
    logits = layout.forward(tokens[:4], [Span(rows[0], 3, wants_logits=True), Span(rows[1], 1, wants_logits=True)])
    assert logits is not None
    return logits.astype(mx.float32)


def _agree(one: mx.array, other: mx.array) -> bool:
    reach = other.max() - other.min()
    return bool((mx.abs(one - other).max() <= PROBE_TOLERANCE * reach).item())
