"""Which layout a model is served with: the fastest one that computes what the model computes alone, proved on the model itself.

Knows the layouts. Knows nothing of requests.
"""

import time

import mlx.core as mx
import structlog
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, RotatingKVCache

from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RaggedLayout, Span
from semantic_trio.adapters.mlx.paged import PagedLayout

log = structlog.get_logger(__name__)

# Caches that can be looked at row by row. Recurrent states, chunked, quantised and compound caches cannot.
RAGGED_CACHES = (KVCache, RotatingKVCache)
# Lengths of the rows the layouts are compared on, and the part of the logits' range they may differ by: rounding in half precision, far from
# what a wrong position or mask does.
PROBE_LENGTHS, PROBE_TOLERANCE = (5, 3), 0.03


def choose_layout(model: Module) -> Layout:
    """The fastest layout that agrees with one forward pass per row, on two short rows at once. Effects: loads lazy weights."""
    in_turn = InTurnLayout(model)
    caches = in_turn.open()
    if not all(type(cache) in RAGGED_CACHES for cache in caches):
        return in_turn
    # On a CPU attention over pages costs ten times as much as over a row of its own.
    is_paged = mx.default_device() != mx.cpu and any(type(cache) is KVCache for cache in caches)
    candidates = [PagedLayout, RaggedLayout] if is_paged else [RaggedLayout]
    wanted = _probe(in_turn)
    chosen = next((layout for kind in candidates if (layout := _proved(kind, model, wanted)) is not None), in_turn)
    if isinstance(chosen, PagedLayout):
        started = time.monotonic()
        passes = chosen.warm_up()
        log.info("passes warmed up", passes=passes, seconds=round(time.monotonic() - started, 1))
    return chosen


def _proved(kind: type[PagedLayout] | type[RaggedLayout], model: Module, wanted: mx.array) -> Layout | None:
    """A layout of this kind if its logits agree with those wanted, else None and a line in the log."""
    try:
        layout = kind(model)
        found = _probe(layout)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # Models that touch keys outside of attention (multi-head latent attention) fail on rows of different lengths; a kernel may not compile.
        log.info("layout cannot be used", layout=kind.__name__, reason=f"{type(error).__name__}: {str(error)[:300]}")
        return None
    if not _agree(found, wanted):
        log.info("layout computes something else than the model alone", layout=kind.__name__)
        return None
    return layout


def _probe(layout: Layout) -> mx.array:
    rows = [layout.open() for _ in PROBE_LENGTHS]
    tokens = mx.arange(sum(PROBE_LENGTHS)) + 1
    layout.forward(tokens, [Span(row, n, wants_logits=False) for row, n in zip(rows, PROBE_LENGTHS, strict=True)])
    both = layout.forward(tokens[:4], [Span(rows[0], 3, wants_logits=True), Span(rows[1], 1, wants_logits=True)])
    decoded = layout.forward(tokens[:2], [Span(row, 1, wants_logits=True) for row in rows])
    assert both is not None
    assert decoded is not None
    logits = mx.concatenate([both, decoded]).astype(mx.float32)
    mx.eval(logits)
    for row in rows:
        layout.close(row)
    return logits


def _agree(one: mx.array, other: mx.array) -> bool:
    reach = other.max() - other.min()
    return bool((mx.abs(one - other).max() <= PROBE_TOLERANCE * reach).item())
