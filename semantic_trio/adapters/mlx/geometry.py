"""Geometry of a loaded model's caches, measured. Runs on the device's thread."""

from collections.abc import Iterable, Iterator
from typing import Protocol

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

from semantic_trio.domain.geometry import BLOCK_TOKENS, LayerGroup, LayerKind, ModelCacheSpec

# Tokens shown to the model; any will do. More than one, for a first token is read in another way by
# some recurrent layers.
PROBE = (0, 1, 2)
# Tokens after which caches of unknown kinds are measured again: beyond the windows that they may
# have.
LONG_PROBE = 2048


# Caches whose size follows from their kind.
KNOWN = KVCache | RotatingKVCache | ChunkedKVCache | ArraysCache


class Leaf(Protocol):
    """A cache that holds something itself."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    def empty(self) -> bool:
        """True if the cache has not seen a token."""


def measure_spec(
    model: Module, fingerprint: str, *, is_paged: bool = False, block_tokens: int = BLOCK_TOKENS
) -> ModelCacheSpec:
    """Ask the model for its caches and show it some tokens.

    Nothing is computed: arrays know their shapes before they have values.

    `is_paged`: rows and blocks are pages of one pool.
    """
    caches = make_prompt_cache(model)
    model(mx.array([PROBE]), cache=caches)
    found = [leaf for leaf in leaves(caches) if not leaf.empty()]
    sizes = (
        [(leaf.nbytes, 0) for leaf in found]
        if all(isinstance(leaf, KNOWN) for leaf in found)
        else _measured_sizes(model)
    )
    groups = (_group(leaf, *size) for leaf, size in zip(found, sizes, strict=True))
    return ModelCacheSpec.of(fingerprint, groups, is_paged=is_paged, block_tokens=block_tokens)


def leaves(caches: Iterable[Leaf]) -> Iterator[Leaf]:
    """The caches that hold something themselves, in order."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from leaves(cache.caches)
        else:
            yield cache


def _measured_sizes(model: Module) -> list[tuple[int, int]]:
    """Return for each cache in use the bytes that it always holds, and those that a token adds,
    rounded up.
    """
    sizes = []
    for tokens in (LONG_PROBE, 2 * LONG_PROBE):
        caches = make_prompt_cache(model)
        model(mx.zeros((1, tokens), mx.int32), cache=caches)
        sizes.append([leaf.nbytes for leaf in leaves(caches) if not leaf.empty()])
    growths = [-(-(more - less) // LONG_PROBE) for less, more in zip(*sizes, strict=True)]
    return [
        (more - 2 * LONG_PROBE * growth, growth)
        for more, growth in zip(sizes[1], growths, strict=True)
    ]


def _group(cache: Leaf, state_bytes: int, growth: int) -> LayerGroup:
    """One cache that has seen the probe.

    A cache of unknown kind is a state that has to be kept whole and may grow.
    """
    match cache:
        case KVCache():
            return LayerGroup(
                LayerKind.GLOBAL, layers=1, token_bytes=_token_bytes(cache.keys, cache.values)
            )
        case RotatingKVCache():
            return LayerGroup(
                LayerKind.SLIDING,
                layers=1,
                token_bytes=_token_bytes(cache.keys, cache.values),
                window=cache.max_size,
            )
        case ChunkedKVCache():
            return LayerGroup(
                LayerKind.CHUNKED,
                layers=1,
                token_bytes=_token_bytes(cache.keys, cache.values),
                window=cache.chunk_size,
            )
        case _:
            return LayerGroup(
                LayerKind.RECURRENT, layers=1, state_bytes=max(state_bytes, 0), token_bytes=growth
            )


def _token_bytes(*arrays: mx.array) -> int:
    """Return the bytes of one position of keys or values, (1, heads, positions, size)."""
    return sum(array.nbytes // array.shape[2] for array in arrays)
