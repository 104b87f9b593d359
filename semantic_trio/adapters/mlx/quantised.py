"""Keys and values with few bits: quantised as they are written, and numbers again as they are read.

Runs on the device's thread.

The codes, scales and biases of one position of one head lie side by side, as words of 32 bits in
the place of its numbers. Whatever moves positions (blocks, pages, ring buffers, snapshots, files)
moves quantised ones like any others and knows nothing of it. Knows mlx-lm's caches. Knows nothing
of rows, passes or pages.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from semantic_trio.adapters.mlx.geometry import Leaf, leaves
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.quantisation import AS_COMPUTED, group_size

WORD_BITS = 32


class NumberFormat(Protocol):
    """The form in which keys or values of a layer are kept."""

    def pack(self, numbers: mx.array) -> mx.array:
        """Return the form in which numbers (..., size) are kept."""

    def unpack(self, kept: mx.array) -> mx.array:
        """Return the numbers (..., size) that were packed."""


@attrs.frozen
class AsComputed:
    """Numbers kept as they are."""

    def pack(self, numbers: mx.array) -> mx.array:
        """See `NumberFormat.pack`."""
        return numbers

    def unpack(self, kept: mx.array) -> mx.array:
        """See `NumberFormat.unpack`."""
        return kept


@attrs.frozen
class Quantised:
    """Codes of `bits`, with a scale and a bias for each group of numbers: words (..., codes,
    scales, biases).
    """

    size: int  # numbers of a head
    bits: int
    dtype: mx.Dtype  # of the numbers, of scales and of biases
    group: int = attrs.field(init=False)  # numbers that share a scale

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "group", group_size(self.size, self.bits))

    @property
    def words(self) -> int:
        """Words of a head at one position: codes, then scales and biases."""
        return (
            self.size * self.bits // WORD_BITS
            + 2 * self.size // self.group * self.dtype.size * 8 // WORD_BITS
        )

    def pack(self, numbers: mx.array) -> mx.array:
        """See `NumberFormat.pack`."""
        codes, scales, biases = mx.quantize(numbers, group_size=self.group, bits=self.bits)
        return mx.concatenate(
            [codes, mx.concatenate([scales, biases], axis=-1).view(mx.uint32)], axis=-1
        )

    def unpack(self, kept: mx.array) -> mx.array:
        """See `NumberFormat.unpack`."""
        codes, groups = self.size * self.bits // WORD_BITS, self.size // self.group
        more = kept[..., codes:].view(self.dtype)
        return mx.dequantize(
            kept[..., :codes],
            more[..., :groups],
            more[..., groups:],
            group_size=self.group,
            bits=self.bits,
        )


@attrs.frozen
class Formats:
    """The formats of keys and of values in one layer."""

    keys: NumberFormat = AsComputed()
    values: NumberFormat = AsComputed()

    def pack(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return the form in which keys and values are kept."""
        return self.keys.pack(keys), self.values.pack(values)

    def unpack(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return the keys and values that were packed."""
        return self.keys.unpack(keys), self.values.unpack(values)


# What layers have that are not quantised.
PLAIN = Formats()


class QuantisedCache(KVCache):  # type: ignore[misc]  # mlx-lm has no types
    """A cache of every position that holds quantised keys and values."""

    def __init__(self, formats: Formats) -> None:
        super().__init__()
        self.formats = formats

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values, and return all of them as every later pass will read them:
        mlx-lm's own method ends in `keys_and_values`.
        """
        found: tuple[mx.array, mx.array] = super().update_and_fetch(
            *self.formats.pack(keys, values)
        )
        return found

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All keys and values."""
        return self.formats.unpack(*super().keys_and_values())


class QuantisedRotatingCache(RotatingKVCache):  # type: ignore[misc]
    """A cache of the last positions that holds quantised keys and values."""

    def __init__(self, formats: Formats, max_size: int, keep: int) -> None:
        super().__init__(max_size, keep)
        self.formats = formats

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values, and return those that are held as every later pass will read
        them.
        """
        super().update_and_fetch(*self.formats.pack(keys, values))
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """The keys and values that are held."""
        return self.formats.unpack(*super().keys_and_values())


def formats_of(cache: object) -> Formats:
    """The formats of what a cache holds."""
    return cache.formats if isinstance(cache, QuantisedCache | QuantisedRotatingCache) else PLAIN


def quantise_caches(model: Module, kv_bits: int) -> None:
    """Have a model make caches that keep keys and values with `kv_bits`.

    Does nothing for `AS_COMPUTED`.

    Recurrent states and chunked layers stay as they are computed. Raises `InvalidRequestError` for
    models whose keys and values cannot be quantised.
    """
    if kv_bits == AS_COMPUTED:
        return
    seen = make_prompt_cache(model)
    model(mx.array([[0]]), cache=seen)
    found = [_formats(leaf, kv_bits) for leaf in leaves(seen)]
    if not any(found):
        raise _refused(kv_bits, "none of this model's layers keeps keys and values of that kind")
    plain: Callable[[], list[Leaf]] = getattr(model, "make_cache", None) or (
        lambda: [KVCache() for _ in seen]
    )
    cast(Any, model).make_cache = lambda: _with_formats(plain(), iter(found))


def _formats(leaf: Leaf, kv_bits: int) -> Formats | None:
    """The formats for a cache that has seen a token; None for one that stays as it is."""
    if leaf.empty() or isinstance(leaf, ArraysCache | ChunkedKVCache):
        return None
    if type(leaf) not in (KVCache, RotatingKVCache):
        raise _refused(
            kv_bits, f"this model keeps a {type(leaf).__name__}, which cannot be quantised"
        )
    keys, values = leaf.keys, leaf.values  # type: ignore[attr-defined]
    return Formats(
        Quantised(keys.shape[-1], kv_bits, keys.dtype),
        Quantised(values.shape[-1], kv_bits, values.dtype),
    )


def _refused(kv_bits: int, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{kv_bits} bits cannot be had: {reason}: set kv_bits = {AS_COMPUTED}", field="kv_bits"
    )


def _with_formats(caches: Iterable[Leaf], formats: Iterator[Formats | None]) -> list[Leaf]:
    """The caches, with others in the place of those that there are formats for."""
    return [_with_format(cache, formats) for cache in caches]


def _with_format(cache: Leaf, formats: Iterator[Formats | None]) -> Leaf:
    if isinstance(cache, CacheList):
        whole: Leaf = CacheList(*_with_formats(cache.caches, formats))
        return whole
    chosen = next(formats)
    if chosen is None:
        return cache
    return (
        QuantisedRotatingCache(chosen, cache.max_size, cache.keep)
        if isinstance(cache, RotatingKVCache)
        else QuantisedCache(chosen)
    )
