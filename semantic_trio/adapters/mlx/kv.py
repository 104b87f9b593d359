"""Ways in which rows of different lengths go through a model together.

Two layouts of the live KV cache behind one method; others are in `decoding.py` and `paged.py`.
`RaggedLayout`: every row keeps the caches mlx-lm made for it, all tokens of a step go through the
model as (tokens, 1, hidden), and only attention looks at each row by itself; a row joins and leaves
without a copy and nothing is padded. `InTurnLayout`: one forward pass per row, for models whose
caches cannot be looked at that way. docs/decisions/0004 has the measurements.
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
from semantic_trio.adapters.mlx.geometry import leaves
from semantic_trio.adapters.mlx.lora import AdapterPass
from semantic_trio.domain.step import PassSizes

# Positions a row's buffers grow by when they are full. Growing copies the row; rows that joined
# together and grew together would stall everybody (0.5 s for 8 rows of 512 tokens on two CPU
# cores), so neighbours grow at different times.
GROWTH = (256, 320, 384, 448, 288, 352, 416, 480)

# a row's own, one per layer; other kinds of mlx-lm's caches where rows go in turn
RowCaches = list[KVCache | RotatingKVCache]


@attrs.frozen
class RowSpan:
    """The tokens of one row in one pass."""

    caches: RowCaches
    count: int
    wants_logits: bool  # of its last token
    verifies: bool = False  # wants the logits of all its tokens
    slot: int = 0  # of the adapter of its row, in the stack of `AdapterPass`

    @property
    def wanted(self) -> int:
        """The number of its last tokens whose logits are wanted."""
        return self.count if self.verifies else int(self.wants_logits)


# A CPU gains nothing from more.
SMALL_PASSES = PassSizes(rows=8, prompt_tokens=512)
# Tokens of decoding rows that a CPU reads in one pass, drafts included: it computes each as slowly
# as one of a prompt.
DECODE_TOKENS = 32


class Layout(Protocol):
    """Runs one forward pass over several rows."""

    @property
    def sizes(self) -> PassSizes:
        """Sizes of passes that suit the layout."""

    @property
    def name(self) -> str:
        """Name of the way in which rows go through the model, for people."""

    @property
    def model(self) -> Module:
        """The module that computes the passes."""

    @property
    def adapters(self) -> AdapterPass:
        """The adapters that the model's layers see in a pass."""

    def open(self) -> RowCaches:
        """Return empty caches for a row."""

    def close(self, caches: RowCaches) -> None:
        """Give back the memory of a row that ends."""

    def settled(self, caches: RowCaches) -> RowCaches:
        """Caches with all that a row holds now, to be read before the next pass and not to be
        written: where states of several rows are one array.
        """

    def unread(self, rows: Sequence[RowCaches]) -> tuple[list[mx.array], list[mx.array]]:
        """Return arrays to compute for rows that were appended to and draw nothing, and numbers
        that are there once those are computed.

        Those who wait for the pass wait for the numbers: the arrays themselves are written by the
        next pass.
        """

    def forward(self, tokens: mx.array, spans: Sequence[RowSpan]) -> mx.array | None:
        """Append `tokens` (total,) to the rows' caches, span after span. Lazy.

        Returns the logits (wanted tokens, vocabulary) after the last tokens of each span, as many
        as it wants; None when none are wanted.
        """

    def rewind(self, caches: RowCaches, count: int) -> None:
        """Take the last `count` positions out of a row.

        Only for layouts whose `sizes` allow drafts.
        """


@attrs.define(eq=False)
class InTurnLayout:
    """One forward pass per row."""

    model: Module
    name: str = attrs.field(default="in turn", init=False)
    sizes: PassSizes = SMALL_PASSES
    adapters: AdapterPass = attrs.field(init=False, factory=AdapterPass)

    def open(self) -> RowCaches:
        """See `Layout.open`."""
        caches: RowCaches = make_prompt_cache(self.model)
        return caches

    def close(self, caches: RowCaches) -> None:
        """See `Layout.close`. The caches go with their last reference."""

    def settled(self, caches: RowCaches) -> RowCaches:
        """See `Layout.settled`: they hold it themselves."""
        return caches

    def rewind(self, caches: RowCaches, count: int) -> None:
        """See `Layout.rewind`."""
        raise NotImplementedError("rows in turn take no drafts")

    def unread(self, rows: Sequence[RowCaches]) -> tuple[list[mx.array], list[mx.array]]:
        """See `Layout.unread`."""
        return [array for row in rows for array in state_of(row)], [
            number for row in rows for number in proofs_of(row)
        ]

    def forward(self, tokens: mx.array, spans: Sequence[RowSpan]) -> mx.array | None:
        """See `Layout.forward`."""
        wanted = []
        ends = itertools.accumulate(span.count for span in spans)
        for span, end in zip(spans, ends, strict=True):
            with self.adapters.rows([span.slot]):
                logits = self.model(tokens[None, end - span.count : end], cache=span.caches)
            if span.wants_logits:
                wanted.append(logits[:, -1])
        return mx.concatenate(wanted) if wanted else None


@attrs.define(eq=False)
class RaggedLayout:
    """All rows in one pass; only attention looks at each by itself."""

    model: Module
    name: str = attrs.field(default="rows of their own", init=False)
    sizes: PassSizes = SMALL_PASSES
    adapters: AdapterPass = attrs.field(init=False, factory=AdapterPass)
    _head: attention.ChosenTokens = attrs.field(init=False)
    _growth: Iterator[int] = attrs.field(init=False, factory=lambda: itertools.cycle(GROWTH))

    def __attrs_post_init__(self) -> None:
        attention.teach(self.model)
        self._head = attention.ChosenTokens.of(self.model)
        # rotating ones have overwritten what a rewind needs
        if all(isinstance(cache, KVCache) for cache in make_prompt_cache(self.model)):
            self.sizes = attrs.evolve(self.sizes, decode_tokens=DECODE_TOKENS)

    def open(self) -> RowCaches:
        """See `Layout.open`."""
        return growing_caches(self.model, next(self._growth))

    def close(self, caches: RowCaches) -> None:
        """See `Layout.close`. The caches go with their last reference."""

    def settled(self, caches: RowCaches) -> RowCaches:
        """See `Layout.settled`: they hold it themselves."""
        return caches

    def rewind(self, caches: RowCaches, count: int) -> None:
        """See `Layout.rewind`.

        The arrays stay: what is beyond a cache's offset is written again.
        """
        for cache in caches:
            cache.trim(count)

    def unread(self, rows: Sequence[RowCaches]) -> tuple[list[mx.array], list[mx.array]]:
        """See `Layout.unread`."""
        return [array for row in rows for array in state_of(row)], [
            number for row in rows for number in proofs_of(row)
        ]

    def forward(self, tokens: mx.array, spans: Sequence[RowSpan]) -> mx.array | None:
        """See `Layout.forward`."""
        counts = [span.count for span in spans]
        positions = mx.array(
            [span.caches[0].offset + i for span in spans for i in range(span.count)]
        )
        layers = zip(*(span.caches for span in spans), strict=True)
        caches = [attention.RaggedCache(list(layer), counts, positions) for layer in layers]
        wanted = places_of_logits(spans)
        with (
            self._head.only(wanted),
            self.adapters.rows([span.slot for span in spans for _ in range(span.count)]),
        ):
            logits = self.model(tokens[:, None], cache=caches)
        return logits[:, -1] if wanted else None


def places_of_logits(spans: Sequence[RowSpan]) -> list[int]:
    """Places of the tokens whose logits are wanted, among those of all spans."""
    ends = itertools.accumulate(span.count for span in spans)
    return [
        place
        for span, end in zip(spans, ends, strict=True)
        for place in range(end - span.wanted, end)
    ]


def growing_caches(model: Module, growth: int) -> RowCaches:
    """New caches of a row, of which those that grow do so by `growth` positions at a time."""
    caches: RowCaches = make_prompt_cache(model)
    for leaf in leaves(caches):
        if hasattr(leaf, "step"):
            leaf.step = growth
    return caches


def state_of(caches: RowCaches) -> list[mx.array]:
    """The arrays a row's caches hold now."""
    found = cast(
        list[tuple[str, object]],
        tree_flatten([cache.state for cache in caches if not cache.empty()]),
    )
    return [array for _, array in found if isinstance(array, mx.array)]


def proofs_of(caches: RowCaches) -> list[mx.array]:
    """A number out of each array of the last layer: they are there when the pass that wrote it is
    done.

    The arrays themselves are no good for that: the next pass writes into them, and whoever waits
    for them waits for it.
    """
    last = next((cache for cache in reversed(caches) if not cache.empty()), None)
    return [
        mx.contiguous(array[tuple([slice(1)] * array.ndim)])
        for array in state_of([last] if last else [])
    ]
