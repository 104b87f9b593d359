"""Attention over rows of different lengths: what makes one forward pass serve them all.

Knows mlx-lm's caches, attention function and model bodies. Knows nothing of requests or of layouts.
"""

import abc
import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, RotatingKVCache

# Longest row (positions) for which attention on a CPU is spelled out as products: above, MLX's own way of multiplying is the faster one.
SPELLED_OUT = 256

Mask = mx.array | str | None
Fetched = Any  # what a cache's `update_and_fetch` gave: an array, or from a `RaggedCache` a list of them, one per row
Attention = Callable[..., mx.array]  # mlx-lm's `scaled_dot_product_attention`, whose trailing parameters differ by family


class BatchCache(abc.ABC):
    """One layer of a pass over several rows, in the place where the model expects a cache. Attention is its affair."""

    @abc.abstractmethod
    def attend(
        self, plain: Attention, queries: mx.array, keys: Fetched, values: Fetched, scale: float, mask: object, more: dict[str, object]
    ) -> mx.array:
        """The output of `plain` attention over what `update_and_fetch` gave, in the shape of the queries."""


@attrs.define(eq=False)
class RaggedCache(BatchCache):
    """One layer's caches of all rows of a pass, in the place where the model expects one cache."""

    caches: list[KVCache | RotatingKVCache]
    counts: list[int]  # tokens of each row in this pass
    offset: mx.array  # (tokens,) the position of each token in its row: what rotary embeddings ask for

    def make_mask(self, count: int, return_array: bool = False, window_size: int | None = None) -> list[Mask] | None:
        """A mask per row, or None when no row needs one. `count` is 1: to the model every token is a row of its own."""
        assert count == 1
        if all(n == 1 for n in self.counts):
            return None
        return [c.make_mask(n, return_array=return_array, window_size=window_size) for c, n in zip(self.caches, self.counts, strict=True)]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[list[mx.array], list[mx.array]]:
        """Append (tokens, heads, 1, dim) to the rows and return each row's whole keys and values, (1, heads, length, dim)."""
        pieces = zip(self.caches, _to_rows(keys, self.counts), _to_rows(values, self.counts), strict=True)
        fetched = [cache.update_and_fetch(k, v) for cache, k, v in pieces]
        return [k for k, _ in fetched], [v for _, v in fetched]

    def attend(
        self, plain: Attention, queries: mx.array, keys: Fetched, values: Fetched, scale: float, mask: object, more: dict[str, object]
    ) -> mx.array:
        """See `BatchCache.attend`."""
        if mask is None and not more and mx.default_device() == mx.cpu and max(key.shape[2] for key in keys) <= SPELLED_OUT:
            return _attend_by_products(queries * scale, keys, values)
        masks = mask if isinstance(mask, list) else [mask] * len(self.counts)
        rows = zip(_to_rows(queries, self.counts), keys, values, self.caches, masks, strict=True)
        outputs = [plain(q, k, v, cache=c, scale=scale, mask=m, **more) for q, k, v, c, m in rows]
        return mx.concatenate([out if n == 1 else out.transpose(2, 1, 0, 3) for out, n in zip(outputs, self.counts, strict=True)])


def _to_rows(x: mx.array, counts: list[int]) -> list[mx.array]:
    """Cut (tokens, heads, 1, dim) into rows of (1, heads, count, dim)."""
    if len(counts) == x.shape[0]:
        return list(mx.split(x, len(counts)))  # one operation; each slice would be one of its own
    ends = itertools.accumulate(counts)
    return [x[end - n : end] if n == 1 else x[end - n : end].transpose(2, 1, 0, 3) for end, n in zip(ends, counts, strict=True)]


def batched(plain: Attention) -> Attention:
    """Make an attention function leave a pass over several rows to its cache; it stays as it is elsewhere."""

    @functools.wraps(plain)
    def attend(
        queries: mx.array, keys: Fetched, values: Fetched, cache: object = None, scale: float = 1.0, mask: object = None, **more: object
    ) -> mx.array:
        if isinstance(cache, BatchCache):
            return cache.attend(plain, queries, keys, values, scale, mask, {name: value for name, value in more.items() if value is not None})
        return plain(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)

    attend.is_batched = True  # type: ignore[attr-defined]
    return attend


def _attend_by_products(queries: mx.array, keys: list[mx.array], values: list[mx.array]) -> mx.array:
    """Attention of one scaled token (rows, heads, 1, dim) per row, spelled out.

    MLX has no fused attention on a CPU: its fallback is twice as many operations, and with a loop over rows their number is what a step costs
    (the thread that dispatches them competes with the BLAS for cores).
    """
    rows, heads, _, dim = queries.shape
    shared = keys[0].shape[1]  # heads of keys, each read by several heads of queries
    grouped = queries.reshape(rows, shared, heads // shared, dim)
    outputs = []
    for query, key, value in zip(_to_rows(grouped, [1] * rows), keys, values, strict=True):
        outputs.append(mx.softmax(query @ key.swapaxes(-1, -2), axis=-1, precise=True) @ value)
    return mx.concatenate(outputs).reshape(rows, heads, 1, values[0].shape[-1])


def teach(model: Module) -> None:
    """Replace `scaled_dot_product_attention` where the model's own modules look it up. Done once per module; other models do not notice."""
    for name in {type(module).__module__ for module in model.modules()}:
        namespace = vars(sys.modules[name])
        plain = namespace.get("scaled_dot_product_attention")
        if plain is not None and not hasattr(plain, "is_batched"):
            namespace["scaled_dot_product_attention"] = batched(plain)


@attrs.define(eq=False)
class ChosenTokens:
    """Lets a model compute its head for chosen tokens only: the head is a quarter of a small model's work, and a prompt needs it once."""

    _indices: mx.array | None = None

    @classmethod
    def of(cls, model: Module) -> "ChosenTokens":
        """Take hold of the model's body, all but the head: mlx-lm's models call it `model`. Raises `AttributeError` where there is none."""
        chosen = cls()
        whole: Any = getattr(model, "language_model", model)  # mlx types a module's attributes as anything a module may hold
        chosen._cut(whole.model)
        return chosen

    @contextlib.contextmanager
    def only(self, indices: list[int]) -> Iterator[None]:
        """While inside, bodies return these tokens alone."""
        self._indices = mx.array(indices, dtype=mx.int32)
        try:
            yield
        finally:
            self._indices = None

    def _cut(self, body: Module) -> None:
        plain, chosen = type(body), self

        class Body(plain):  # type: ignore[misc, valid-type]
            def __call__(self, *args: object, **kwargs: object) -> mx.array:
                hidden: mx.array = super().__call__(*args, **kwargs)
                return hidden if chosen._indices is None else hidden.reshape(-1, 1, hidden.shape[-1])[chosen._indices]

        body.__class__ = Body
