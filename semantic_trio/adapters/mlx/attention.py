"""Attention over rows of different lengths: what makes one forward pass serve them all.

Knows mlx-lm's caches, attention function and model bodies. Knows nothing of requests or of layouts.
"""

import abc
import contextlib
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, RotatingKVCache

from semantic_trio.adapters.mlx.body import body_of

# Longest row (positions) for which attention on a CPU is spelled out as products: above, MLX's own
# way of multiplying is the faster one.
SPELLED_OUT = 256

Mask = mx.array | str | None
# what a cache's `update_and_fetch` gave: an array, which from a `RaggedCache` is a `PerRow`
Fetched = Any
# mlx-lm's `scaled_dot_product_attention`, whose trailing parameters differ by family
Attention = Callable[..., mx.array]


class BatchCache(abc.ABC):
    """One layer of a pass over several rows, in the place where the model expects a cache.

    Attention is its affair.
    """

    @abc.abstractmethod
    def attend(
        self,
        plain: Attention,
        queries: mx.array,
        keys: Fetched,
        values: Fetched,
        scale: float,
        mask: object,
        more: dict[str, object],
    ) -> mx.array:
        """The output of `plain` attention over what `update_and_fetch` gave, in the shape of the
        queries.
        """


@attrs.define(eq=False)
class RaggedCache(BatchCache):
    """One layer's caches of all rows of a pass, in the place where the model expects one cache."""

    caches: list[KVCache | RotatingKVCache]
    counts: list[int]  # tokens of each row in this pass
    # (tokens,) the position of each token in its row: what rotary embeddings ask for
    offset: mx.array

    def make_mask(
        self, count: int, return_array: bool = False, window_size: int | None = None
    ) -> list[Mask] | None:
        """A mask per row, or None when no row needs one.

        `count` is 1: to the model every token is a row of its own.
        """
        assert count == 1
        if all(n == 1 for n in self.counts):
            return None
        return [
            c.make_mask(n, return_array=return_array, window_size=window_size)
            for c, n in zip(self.caches, self.counts, strict=True)
        ]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> "tuple[PerRow, PerRow]":
        """Append (tokens, heads, 1, dim) to the rows and return each row's whole keys and values,
        (1, heads, length, dim).
        """
        pieces = zip(
            self.caches, _to_rows(keys, self.counts), _to_rows(values, self.counts), strict=True
        )
        return self._per_row([cache.update_and_fetch(k, v) for cache, k, v in pieces])

    def keys_and_values(self) -> "tuple[PerRow, PerRow]":
        """Keys and values of each row as they are: layers without their own ones attend over those
        of another layer.
        """
        return self._per_row([cache.keys_and_values() for cache in self.caches])

    def attend(
        self,
        plain: Attention,
        queries: mx.array,
        keys: Fetched,
        values: Fetched,
        scale: float,
        mask: object,
        more: dict[str, object],
    ) -> mx.array:
        """See `BatchCache.attend`."""
        if (
            mask is None
            and not more
            and mx.default_device() == mx.cpu
            and max(key.shape[2] for key in keys.arrays) <= SPELLED_OUT
        ):
            return _attend_by_products(queries * scale, keys.arrays, values.arrays)
        masks = (
            mask.arrays
            if isinstance(mask, PerRow)
            else mask
            if isinstance(mask, list)
            else [mask] * len(self.counts)
        )
        rows = zip(
            _to_rows(queries, self.counts),
            keys.arrays,
            values.arrays,
            self.caches,
            masks,
            strict=True,
        )
        outputs = [plain(q, k, v, cache=c, scale=scale, mask=m, **more) for q, k, v, c, m in rows]
        return mx.concatenate(
            [
                out if n == 1 else out.transpose(2, 1, 0, 3)
                for out, n in zip(outputs, self.counts, strict=True)
            ]
        )

    def _per_row(self, fetched: "list[tuple[mx.array, mx.array]]") -> "tuple[PerRow, PerRow]":
        return PerRow(self, [keys for keys, _ in fetched]), PerRow(
            self, [values for _, values in fetched]
        )


class PerRow(mx.array):
    """One array for each row of a pass, (1, heads, length, dim), where the model expects one array
    for all rows.

    Can do what models do with keys and values outside of attention: latent attention multiplies its
    rotary part by the queries, and layers that share keys and values hand them on. An array by its
    type, for only so does Python ask it to be multiplied; as one it is no number, so that whatever
    else a model makes of it fails the proof of the layout.
    """

    def __init__(self, cache: RaggedCache, arrays: list[mx.array]) -> None:
        super().__init__(math.nan)
        self.cache, self.arrays = cache, arrays

    @property
    def dtype(self) -> mx.Dtype:
        """The kind of numbers."""
        return self.arrays[0].dtype

    def astype(self, dtype: mx.Dtype) -> "PerRow":  # type: ignore[override]
        """Convert every array."""
        return PerRow(self.cache, [array.astype(dtype) for array in self.arrays])

    def swapaxes(self, first: int, second: int) -> "PerRow":  # type: ignore[override]
        """Swap two axes of every array."""
        return PerRow(self.cache, [array.swapaxes(first, second) for array in self.arrays])

    def __rmatmul__(self, left: mx.array) -> "PerRow":
        """Multiply each row's part of (tokens, heads, 1, dim) by the row's array."""
        return PerRow(
            self.cache,
            [
                part @ array
                for part, array in zip(_to_rows(left, self.cache.counts), self.arrays, strict=True)
            ],
        )


def _to_rows(x: mx.array, counts: list[int]) -> list[mx.array]:
    """Cut (tokens, heads, 1, dim) into rows of (1, heads, count, dim)."""
    if len(counts) == x.shape[0]:
        return list(mx.split(x, len(counts)))  # one operation; each slice would be one of its own
    ends = itertools.accumulate(counts)
    return [
        x[end - n : end] if n == 1 else x[end - n : end].transpose(2, 1, 0, 3)
        for end, n in zip(ends, counts, strict=True)
    ]


def batched(plain: Attention) -> Attention:
    """Make an attention function leave a pass over several rows to its cache; it stays as it is
    elsewhere.
    """

    @functools.wraps(plain)
    def attend(
        queries: mx.array,
        keys: Fetched,
        values: Fetched,
        cache: object = None,
        scale: float = 1.0,
        mask: object = None,
        **more: object,
    ) -> mx.array:
        batch = keys.cache if isinstance(keys, PerRow) else cache
        if isinstance(batch, BatchCache):
            return batch.attend(
                plain,
                queries,
                keys,
                values,
                scale,
                mask,
                {name: value for name, value in more.items() if value is not None},
            )
        return plain(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)

    attend.is_batched = True  # type: ignore[attr-defined]
    return attend


def _attend_by_products(
    queries: mx.array, keys: list[mx.array], values: list[mx.array]
) -> mx.array:
    """Attention of one scaled token (rows, heads, 1, dim) per row, spelled out.

    MLX has no fused attention on a CPU: its fallback is twice as many operations, and with a loop
    over rows their number is what a step costs (the thread that dispatches them competes with the
    BLAS for cores).
    """
    rows, heads, _, dim = queries.shape
    shared = keys[0].shape[1]  # heads of keys, each read by several heads of queries
    grouped = queries.reshape(rows, shared, heads // shared, dim)
    outputs = []
    for query, key, value in zip(_to_rows(grouped, [1] * rows), keys, values, strict=True):
        outputs.append(mx.softmax(query @ key.swapaxes(-1, -2), axis=-1, precise=True) @ value)
    return mx.concatenate(outputs).reshape(rows, heads, 1, values[0].shape[-1])


def teach(model: Module) -> None:
    """Replace `scaled_dot_product_attention` where the model's own modules look it up.

    Done once per module; other models do not notice.
    """
    for name in {type(module).__module__ for module in model.modules()}:
        namespace = vars(sys.modules[name])
        plain = namespace.get("scaled_dot_product_attention")
        if plain is not None and not hasattr(plain, "is_batched"):
            namespace["scaled_dot_product_attention"] = batched(plain)


@attrs.define(eq=False)
class ChosenTokens:
    """Lets a model compute its head for chosen tokens only: the head is a quarter of a small
    model's work, and a prompt needs it once.
    """

    _indices: mx.array | None = None

    @classmethod
    def of(cls, model: Module) -> "ChosenTokens":
        """Take hold of the model's body, all but the head.

        Raises `AttributeError` where there is none.
        """
        chosen = cls()
        chosen._cut(body_of(model))
        return chosen

    @contextlib.contextmanager
    def only(self, indices: list[int]) -> Iterator[None]:
        """Have bodies return these tokens alone until exit; the first one where there are none, for
        some heads cannot compute nothing.
        """
        self._indices = mx.array(indices or [0], dtype=mx.int32)
        try:
            yield
        finally:
            self._indices = None

    def _cut(self, body: Module) -> None:
        plain, chosen = type(body), self

        class Body(plain):  # type: ignore[misc, valid-type]
            def __call__(self, *args: object, **kwargs: object) -> mx.array:
                hidden: mx.array = super().__call__(*args, **kwargs)
                return (
                    hidden
                    if chosen._indices is None
                    else hidden.reshape(-1, 1, hidden.shape[-1])[chosen._indices]
                )

        body.__class__ = Body
