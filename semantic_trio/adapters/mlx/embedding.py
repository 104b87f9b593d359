"""Texts as vectors: what a model's body makes of them, before any head.

Everything here runs on the device thread. Texts are read in pieces, so that others can step in
between. Knows nothing of the rows that generate.
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


def reads_together(model: Module) -> bool:
    """True if several texts go through the body together. Nothing is computed."""
    try:
        hidden: mx.array = body_of(model)(mx.array([PROBE] * 3), cache=make_prompt_cache(model))
        return hidden.ndim == 3 and hidden.shape[:2] == (3, len(PROBE))
    except (AttributeError, IndexError, TypeError, ValueError):
        return False  # caches of one row


@attrs.define(eq=False)
class TextsReading:
    """Texts on their way through the model together.

    Shorter ones are padded behind their end, where no token of theirs looks.
    """

    _model: Module
    texts: Sequence[Sequence[int]]
    # tokens of each text that were read, padding included
    _position: int = attrs.field(init=False, default=0)
    _caches: list[Any] = attrs.field(init=False)
    # (texts, size) float32, as those below
    _first: mx.array = attrs.field(init=False, factory=lambda: mx.array(0.0))
    _last: mx.array = attrs.field(init=False, factory=lambda: mx.array(0.0))
    _sum: mx.array = attrs.field(init=False, factory=lambda: mx.array(0.0))

    def __attrs_post_init__(self) -> None:
        self._caches = make_prompt_cache(self._model)

    @property
    def is_read(self) -> bool:
        """True if all texts were read to their ends."""
        return self._position >= max(map(len, self.texts))

    def read(self, tokens: int) -> float:
        """Read so many tokens more of each text, and wait until they are computed.

        Returns the seconds it took.
        """
        began, start = time.monotonic(), self._position
        stop = min(start + tokens, max(map(len, self.texts)))
        padded = mx.array(
            [
                [*text[start:stop], *[0] * (stop - max(start, min(len(text), stop)))]
                for text in self.texts
            ]
        )
        hidden = body_of(self._model)(padded, cache=self._caches).astype(mx.float32)
        lengths, places = (
            mx.array([len(text) for text in self.texts])[:, None],
            mx.arange(start, stop)[None],
        )
        self._sum = self._sum + _summed(hidden, places < lengths)
        self._last = self._last + _summed(hidden, places == lengths - 1)
        self._first = hidden[:, 0] if start == 0 else self._first
        self._position = stop
        mx.eval(self._first, self._last, self._sum)
        return time.monotonic() - began

    def vectors(self, pooling: Pooling) -> list[tuple[float, ...]]:
        """Return what was read as vectors of length 1, one for each text."""
        assert self.is_read, "all texts were read"
        found = {Pooling.FIRST: self._first, Pooling.LAST: self._last, Pooling.MEAN: self._sum}[
            pooling
        ]
        scaled = found / mx.maximum(mx.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
        return [tuple(vector) for vector in cast(list[list[float]], scaled.tolist())]


def _summed(hidden: mx.array, wanted: mx.array) -> mx.array:
    """Sum of the wanted vectors of each text (texts, size), of (texts, tokens, size).

    The other vectors may hold NaN, so they are replaced by zeros before the sum.
    """
    return mx.where(wanted[..., None], hidden, 0).sum(axis=1)
