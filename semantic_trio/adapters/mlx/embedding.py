"""Texts as vectors: what a model's body makes of them, before any head.

Everything here runs on the device thread. Knows nothing of batches: a text is read by itself, in pieces, so that others can step in between.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache

from semantic_trio.adapters.mlx.body import body_of
from semantic_trio.domain.embedding import Pooling

# What a piece is read for whose size has to be found out.
PROBE = (0, 1)


def embedding_size(model: Module) -> int:
    """Numbers in a vector; 0 for a model whose body makes none."""
    try:
        hidden: mx.array = body_of(model)(mx.array([PROBE]), cache=make_prompt_cache(model))
        return hidden.shape[2] if hidden.ndim == 3 and hidden.shape[:2] == (1, len(PROBE)) else 0
    except (AttributeError, IndexError, TypeError, ValueError):
        return 0  # families differ in what their bodies take and give


@attrs.define(eq=False)
class TextReading:
    """One text on its way through the model."""

    _model: Module
    _caches: list[Any] = attrs.field(init=False)
    _first: mx.array | None = attrs.field(init=False, default=None)  # (size,) float32
    _last: mx.array | None = attrs.field(init=False, default=None)
    _sum: mx.array | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._caches = make_prompt_cache(self._model)

    def read(self, tokens: Sequence[int]) -> float:
        """Read on, and wait until it is computed. Returns the seconds it took."""
        began = time.monotonic()
        [hidden] = body_of(self._model)(mx.array([tokens]), cache=self._caches).astype(mx.float32)
        total = hidden.sum(axis=0)
        self._first = hidden[0] if self._first is None else self._first
        self._last, self._sum = hidden[-1], total if self._sum is None else self._sum + total
        mx.eval(self._first, self._last, self._sum)
        return time.monotonic() - began

    def vector(self, pooling: Pooling) -> tuple[float, ...]:
        """Return what was read as one vector of length 1."""
        found = {Pooling.FIRST: self._first, Pooling.LAST: self._last, Pooling.MEAN: self._sum}[pooling]
        assert found is not None, "something was read"
        return tuple(cast(list[float], (found / mx.maximum(mx.linalg.norm(found), 1e-12)).tolist()))
