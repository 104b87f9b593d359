"""Which layout a model is served with: the fastest one that computes what the model computes alone, proved on the model itself.

Knows the layouts. Knows nothing of requests.
"""

import math
import time

import attrs
import mlx.core as mx
import structlog
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, RotatingKVCache

from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RaggedLayout, RowCaches, Span
from semantic_trio.adapters.mlx.paged import PagedLayout

log = structlog.get_logger(__name__)

# Caches that can be looked at row by row. Recurrent states, chunked, quantised and compound caches cannot.
RAGGED_CACHES = (KVCache, RotatingKVCache)
# Lengths of the rows the layouts are compared on, and the part of the logits' range they may differ by: rounding in half precision, far from
# what a wrong position or mask does.
PROBE_LENGTHS, PROBE_TOLERANCE = (5, 3), 0.03
# Longest row that a start is spent on; it covers the windows of gpt-oss and Gemma. Tokens of rows are below the smallest vocabulary.
LONGEST_PROBE, PROBE_TOKENS = 1024, 200


@attrs.frozen
class Proof:
    """Result of comparing a layout with the model alone."""

    layout: str
    difference: float = math.inf  # the largest between logits, as a part of their range
    error: str = ""  # why it could not be compared

    @property
    def holds(self) -> bool:
        """True if the layout computes what the model computes alone."""
        return self.difference <= PROBE_TOLERANCE

    def __str__(self) -> str:
        return self.error or f"differs by {self.difference:.1e} of the logits' range, at most {PROBE_TOLERANCE} is allowed"


def choose_layout(model: Module) -> Layout:
    """The fastest layout that agrees with one forward pass per row, on two short rows at once. Effects: loads lazy weights."""
    in_turn = InTurnLayout(model)
    candidates = candidates_for(in_turn.open())
    if not candidates:
        return in_turn
    lengths = probe_lengths(in_turn.open()) if PagedLayout in candidates else PROBE_LENGTHS
    wanted = probe(in_turn, lengths)
    for kind in candidates:
        layout, proof = prove(kind, model, wanted, lengths)
        if layout is not None:
            if isinstance(layout, PagedLayout):
                _warm_up(layout)
            return layout
        log.info("layout cannot be used", layout=proof.layout, reason=str(proof))
    return in_turn


def candidates_for(caches: RowCaches) -> list[type[PagedLayout] | type[RaggedLayout]]:
    """The layouts that a model with these caches may be served with beside one row at a time, the fastest first."""
    if not all(type(cache) in RAGGED_CACHES for cache in caches):
        return []
    # On a CPU attention over pages costs ten times as much as over a row of its own.
    is_paged = mx.default_device() != mx.cpu and any(type(cache) is KVCache for cache in caches)
    return [PagedLayout, RaggedLayout] if is_paged else [RaggedLayout]


def probe_lengths(caches: RowCaches) -> tuple[int, int]:
    """Lengths of two rows to compare layouts on: the first one is longer than the smallest window, if that is not too long."""
    windows = [cache.max_size for cache in caches if isinstance(cache, RotatingKVCache) and cache.max_size <= LONGEST_PROBE]
    return (min(windows) + PROBE_LENGTHS[0], PROBE_LENGTHS[1]) if windows else PROBE_LENGTHS


def prove(
    kind: type[PagedLayout] | type[RaggedLayout], model: Module, wanted: mx.array, lengths: tuple[int, int] = PROBE_LENGTHS
) -> tuple[Layout | None, Proof]:
    """A layout of this kind if its logits agree with those wanted, else None; and how far they agree."""
    try:
        layout = kind(model)
        difference = _difference(probe(layout, lengths), wanted)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # Models that touch keys outside of attention (multi-head latent attention) fail on rows of different lengths; a kernel may not compile.
        return None, Proof(kind.__name__, error=f"{type(error).__name__}: {str(error)[:300]}")
    proof = Proof(kind.__name__, difference)
    return (layout if proof.holds else None), proof


def probe(layout: Layout, lengths: tuple[int, int] = PROBE_LENGTHS) -> mx.array:
    """Logits of two rows that are read together, read on, and decode."""
    rows = [layout.open() for _ in lengths]
    tokens = mx.arange(sum(lengths)) % PROBE_TOKENS + 1
    layout.forward(tokens, [Span(row, n, wants_logits=False) for row, n in zip(rows, lengths, strict=True)])
    both = layout.forward(tokens[:4], [Span(rows[0], 3, wants_logits=True), Span(rows[1], 1, wants_logits=True)])
    decoded = layout.forward(tokens[:2], [Span(row, 1, wants_logits=True) for row in rows])
    assert both is not None
    assert decoded is not None
    logits = mx.concatenate([both, decoded]).astype(mx.float32)
    mx.eval(logits)
    for row in rows:
        layout.close(row)
    return logits


def _warm_up(layout: PagedLayout) -> None:
    started = time.monotonic()
    passes = layout.warm_up()
    log.info("passes warmed up", passes=passes, seconds=round(time.monotonic() - started, 1))


def _difference(found: mx.array, wanted: mx.array) -> float:
    difference = (mx.abs(found - wanted).max() / (wanted.max() - wanted.min())).item()
    assert isinstance(difference, float)
    return math.inf if math.isnan(difference) else difference
