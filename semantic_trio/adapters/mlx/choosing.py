"""The layout that a model is served with: the fastest one that computes what the model computes
alone, proved on the model itself.

Knows the layouts. Knows nothing of requests.
"""

import itertools
import math
import time
from collections.abc import Sequence

import attrs
import mlx.core as mx
import structlog
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from semantic_trio.adapters.mlx.decoding import DecodingLayout
from semantic_trio.adapters.mlx.geometry import leaves
from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RaggedLayout, RowCaches, RowSpan
from semantic_trio.adapters.mlx.paged import PagedLayout
from semantic_trio.adapters.mlx.quantised import (
    QuantisedCache,
    QuantisedRotatingCache,
    quantise_caches,
)
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.quantisation import AS_COMPUTED

log = structlog.get_logger(__name__)

# Caches that keep every position, those that attention can look at row by row, and those whose
# states can be stacked. Chunked and unknown caches are none of these.
GLOBAL_CACHES = {KVCache, QuantisedCache}
RAGGED_CACHES, STACKED_CACHES = (
    GLOBAL_CACHES | {RotatingKVCache, QuantisedRotatingCache},
    {ArraysCache},
)
Kind = type[PagedLayout] | type[RaggedLayout] | type[DecodingLayout]
# Lengths of the rows the layouts are compared on, and the part of the logits' range they may differ
# by: rounding in half precision, far from what a wrong position or mask does.
PROBE_LENGTHS, PROBE_TOLERANCE = (5, 3), 0.03
# The same with quantised keys and values. In half precision two layouts round a key differently,
# and some of its codes then are others: 0.15 in an 8B model of random weights with 4 bits. So a
# layout is proved on numbers first; this shows kernels that do not compile or give no numbers.
FEW_BITS_TOLERANCE = 0.25
# Longest row that a start is spent on; it covers the windows of gpt-oss and Gemma. Tokens of rows
# are below the smallest vocabulary.
LONGEST_PROBE, PROBE_TOKENS = 1024, 200


@attrs.frozen
class Proof:
    """Result of comparing a layout with the model alone."""

    layout: str
    difference: float = math.inf  # the largest between logits, as a part of their range
    error: str = ""  # why it could not be compared
    allowed: float = PROBE_TOLERANCE  # difference

    @property
    def holds(self) -> bool:
        """True if the layout computes what the model computes alone."""
        return self.difference <= self.allowed

    def __str__(self) -> str:
        return self.error or (
            f"differs by {self.difference:.1e} of the logits' range, at most {self.allowed} is "
            "allowed"
        )


def choose_layout(
    model: Module, kv_bits: int = AS_COMPUTED, block_tokens: int = BLOCK_TOKENS
) -> Layout:
    """Return the fastest layout that agrees with one forward pass per row, on two short rows at
    once.

    `block_tokens`: positions of a page, where the layout has pages. Effects: loads lazy weights,
    and has the model make caches of `kv_bits`. Raises `InvalidRequestError` as `quantise_caches`
    does.
    """
    kinds = candidates_for(InTurnLayout(model).open())
    layout = _first_proved(kinds, model, PROBE_TOLERANCE, block_tokens)
    if kv_bits != AS_COMPUTED:
        quantise_caches(model, kv_bits)
        slower = itertools.dropwhile(lambda kind: not isinstance(layout, kind), kinds)
        layout = _first_proved(list(slower), model, FEW_BITS_TOLERANCE, block_tokens)
    if isinstance(layout, PagedLayout):
        _warm_up(layout)
    return layout


def _first_proved(
    kinds: Sequence[Kind], model: Module, allowed: float, block_tokens: int
) -> Layout:
    """Return the first layout of these kinds that agrees with one row at a time, else that one."""
    in_turn = InTurnLayout(model)
    if not kinds:
        return in_turn
    lengths = probe_lengths(in_turn.open()) if PagedLayout in kinds else PROBE_LENGTHS
    wanted = probe(in_turn, lengths)
    for kind in kinds:
        layout, proof = prove(kind, model, wanted, lengths, allowed, block_tokens)
        if layout is not None:
            return layout
        log.info("layout cannot be used", layout=proof.layout, reason=str(proof))
    return in_turn


def candidates_for(caches: RowCaches) -> list[Kind]:
    """The layouts that a model with these caches may be served with beside one row at a time, the
    fastest first.
    """
    kinds = {type(leaf) for leaf in leaves(caches)}
    if not kinds <= RAGGED_CACHES | STACKED_CACHES:
        return []
    if kinds & STACKED_CACHES:
        return [DecodingLayout]
    # Several caches in a layer: rows of their own know only one.
    is_nested = any(type(cache) is CacheList for cache in caches)
    slower: list[Kind] = [DecodingLayout] if is_nested else [RaggedLayout, DecodingLayout]
    # On a CPU attention over pages costs ten times as much as over a row of its own.
    is_paged = mx.default_device() != mx.cpu and bool(GLOBAL_CACHES & kinds)
    return [PagedLayout, *slower] if is_paged else slower


def probe_lengths(caches: RowCaches) -> tuple[int, int]:
    """Lengths of two rows to compare layouts on: the first one is longer than the smallest window,
    if that is not too long.
    """
    windows = [
        cache.max_size
        for cache in caches
        if isinstance(cache, RotatingKVCache) and cache.max_size <= LONGEST_PROBE
    ]
    return (min(windows) + PROBE_LENGTHS[0], PROBE_LENGTHS[1]) if windows else PROBE_LENGTHS


def prove(
    kind: Kind,
    model: Module,
    wanted: mx.array,
    lengths: tuple[int, int] = PROBE_LENGTHS,
    allowed: float = PROBE_TOLERANCE,
    block_tokens: int = BLOCK_TOKENS,
) -> tuple[Layout | None, Proof]:
    """Return a layout of this kind if its logits agree with those wanted, else None; and how far
    they agree.
    """
    try:
        layout = (
            kind(model, page_tokens=block_tokens) if issubclass(kind, PagedLayout) else kind(model)
        )
        difference = _difference(probe(layout, lengths), wanted)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # Models that touch keys outside of attention (multi-head latent attention) fail on rows of
        # different lengths; a kernel may not compile.
        return None, Proof(kind.__name__, error=f"{type(error).__name__}: {str(error)[:300]}")
    proof = Proof(kind.__name__, difference, allowed=allowed)
    return (layout if proof.holds else None), proof


def probe(layout: Layout, lengths: tuple[int, int] = PROBE_LENGTHS) -> mx.array:
    """Logits of two rows that are read together, read on, and decode together, one without the
    other, and together again.
    """
    rows = [layout.open() for _ in lengths]
    tokens = mx.arange(sum(lengths)) % PROBE_TOKENS + 1
    layout.forward(
        tokens, [RowSpan(row, n, wants_logits=False) for row, n in zip(rows, lengths, strict=True)]
    )
    both = layout.forward(
        tokens[:4], [RowSpan(rows[0], 3, wants_logits=True), RowSpan(rows[1], 1, wants_logits=True)]
    )
    decoded = [
        layout.forward(tokens[: len(some)], [RowSpan(row, 1, wants_logits=True) for row in some])
        for some in (rows, rows, rows[1:], rows)
    ]
    logits = mx.concatenate([one for one in (both, *decoded) if one is not None]).astype(mx.float32)
    mx.eval(logits)
    for row in rows:
        layout.close(row)
    return logits


def _warm_up(layout: PagedLayout) -> None:
    started = time.monotonic()
    passes = layout.warm_up()
    log.info("passes warmed up", passes=passes, seconds=round(time.monotonic() - started, 1))


def _difference(found: mx.array, wanted: mx.array) -> float:
    never = (wanted == -math.inf) & (found == -math.inf)  # tokens that some models rule out
    wanted, found = mx.where(never, 0, wanted), mx.where(never, 0, found)
    difference = (mx.abs(found - wanted).max() / (wanted.max() - wanted.min())).item()
    assert isinstance(difference, float)
    return math.inf if math.isnan(difference) else difference
