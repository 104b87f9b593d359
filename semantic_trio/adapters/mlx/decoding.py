"""Decoding rows in one pass, prompts in passes of their own.

For models that `RaggedLayout` cannot serve: recurrent layers read the tokens of a prompt one after
the other, latent attention reads a prompt and a token in two ways, and some layers attend over keys
and values of others. A pass of one token per row takes them all: recurrent layers get the states of
the rows stacked, and attention looks at each row by itself. docs/decisions/0016 has the reasons.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import ArraysCache, CacheList

from semantic_trio.adapters.mlx import attention
from semantic_trio.adapters.mlx.geometry import leaves
from semantic_trio.adapters.mlx.kv import (
    GROWTH,
    SMALL_PASSES,
    RowCaches,
    RowSpan,
    growing_caches,
    proofs_of,
    state_of,
)
from semantic_trio.adapters.mlx.lora import AdapterPass
from semantic_trio.adapters.mlx.stacked_states import StackedStates, most_alike
from semantic_trio.domain.step import PassSizes


@attrs.define(eq=False)
class DecodingLayout:
    """One pass for all rows that decode, and one for each prompt."""

    model: Module
    name: str = attrs.field(default="decoding together", init=False)
    sizes: PassSizes = SMALL_PASSES
    adapters: AdapterPass = attrs.field(init=False, factory=AdapterPass)
    _head: attention.ChosenTokens = attrs.field(init=False)
    _growth: Iterator[int] = attrs.field(init=False, factory=lambda: itertools.cycle(GROWTH))
    # states of the rows that decoded last: nothing is copied while they stay
    _stack: StackedStates | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        attention.teach(self.model)
        self._head = attention.ChosenTokens.of(self.model)

    def open(self) -> RowCaches:
        """See `Layout.open`."""
        return growing_caches(self.model, next(self._growth))

    def close(self, caches: RowCaches) -> None:
        """See `Layout.close`. The caches go with their last reference."""
        if self._stack is not None and self._stack.holds(caches):
            self._unstack()

    def settled(self, caches: RowCaches) -> RowCaches:
        """See `Layout.settled`."""
        return (
            self._stack.copy_of(caches)
            if self._stack is not None and self._stack.holds(caches)
            else caches
        )

    def rewind(self, caches: RowCaches, count: int) -> None:
        """See `Layout.rewind`."""
        raise NotImplementedError(
            "states of recurrent layers cannot be rewound, and latent attention reads drafts in "
            "another way than tokens"
        )

    def unread(self, rows: Sequence[RowCaches]) -> tuple[list[mx.array], list[mx.array]]:
        """See `Layout.unread`.

        States of decoding rows are computed with their pass, so that those before them are freed.
        """
        written = [array for row in rows for array in state_of(row)] + (
            self._stack.arrays if self._stack is not None else []
        )
        return written, [number for row in rows for number in proofs_of(row)]

    def forward(self, tokens: mx.array, spans: Sequence[RowSpan]) -> mx.array | None:
        """See `Layout.forward`."""
        ends = list(itertools.accumulate(span.count for span in spans))
        together = self._decoding(spans)
        alone = [at for at in range(len(spans)) if at not in together]
        found: list[mx.array] = []
        if together:
            found.append(
                self._decode(
                    _picked(tokens, [ends[at] - 1 for at in together]),
                    [spans[at] for at in together],
                )
            )
        for at in alone:
            logits = self._read(tokens[ends[at] - spans[at].count : ends[at]], spans[at])
            found += [] if logits is None else [logits]
        return _in_order(found, together + [at for at in alone if spans[at].wants_logits])

    def _decoding(self, spans: Sequence[RowSpan]) -> list[int]:
        """Places of the spans that go through the model together.

        Effects: their states are in the stack.
        """
        places = [at for at, span in enumerate(spans) if span.count == 1 and span.wants_logits]
        rows = [spans[at].caches for at in places]
        if self._stack is None or not self._stack.is_of(rows):
            self._unstack()
            rows = most_alike(rows) if rows else []
            self._stack = StackedStates.gather(rows) if rows else None
        return [at for at in places if any(spans[at].caches is row for row in rows)]

    def _unstack(self) -> None:
        if self._stack is not None:
            self._stack.scatter()
            self._stack = None

    def _decode(self, tokens: mx.array, spans: Sequence[RowSpan]) -> mx.array:
        """Logits (rows, vocabulary) after one token of each row."""
        assert self._stack is not None
        rows = [span.caches for span in spans]
        counts, positions, states = (
            [1] * len(rows),
            mx.array([_length(row) for row in rows]),
            iter(self._stack.layers),
        )

        def layer(caches: Sequence[Any]) -> object:  # mlx-lm's caches have no type in common
            if isinstance(caches[0], CacheList):
                return CacheList(
                    *(
                        layer(parts)
                        for parts in zip(*(cache.caches for cache in caches), strict=True)
                    )
                )
            return (
                next(states)
                if isinstance(caches[0], ArraysCache)
                else attention.RaggedCache(list(caches), counts, positions)
            )

        with self.adapters.rows([span.slot for span in spans]):
            logits: mx.array = self.model(
                tokens[:, None], cache=[layer(caches) for caches in zip(*rows, strict=True)]
            )
        return logits[:, -1]

    def _read(self, tokens: mx.array, span: RowSpan) -> mx.array | None:
        """Logits (1, vocabulary) after the tokens of one row, None where they are not wanted."""
        with (
            self._head.only([span.count - 1] if span.wants_logits else []),
            self.adapters.rows([span.slot]),
        ):
            logits = self.model(tokens[None], cache=span.caches)
        return logits[:, -1] if span.wants_logits else None


def _length(row: RowCaches) -> int:
    """Tokens read, by the caches that count them; 0 for a model without any, which asks for no
    positions.
    """
    offsets = (getattr(leaf, "offset", None) for leaf in leaves(row) if not leaf.empty())
    return next((offset for offset in offsets if isinstance(offset, int)), 0)


def _picked(tokens: mx.array, places: Sequence[int]) -> mx.array:
    """Tokens at these places; without an operation where they are the first ones or all."""
    if list(places) == list(range(len(places))):
        return tokens if len(places) == tokens.shape[0] else tokens[: len(places)]
    return tokens[mx.array(list(places))]


def _in_order(found: Sequence[mx.array], places: Sequence[int]) -> mx.array | None:
    """Logits in the order of the spans that they are of."""
    if not found:
        return None
    logits = found[0] if len(found) == 1 else mx.concatenate(list(found))
    order = sorted(range(len(places)), key=places.__getitem__)
    return logits if order == list(range(len(places))) else logits[mx.array(order)]
