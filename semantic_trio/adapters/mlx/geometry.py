"""What the caches of a loaded model really are. Runs on the device's thread."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import CacheList, ChunkedKVCache, KVCache, RotatingKVCache, make_prompt_cache

from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec

# Tokens shown to the model; any will do. More than one, for a first token is read in another way by some recurrent layers.
PROBE = (0, 1, 2)


class Leaf(Protocol):
    """A cache that holds something itself."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    def empty(self) -> bool:
        """Whether it has not seen a token."""


def measure_spec(model: Module, fingerprint: str) -> ModelCacheSpec:
    """Ask the model for its caches and show it some tokens. Nothing is computed: arrays know their shapes before they have values."""
    caches = make_prompt_cache(model)
    model(mx.array([PROBE]), cache=caches)
    return ModelCacheSpec.of(fingerprint, (_group(leaf) for leaf in leaves(caches) if not leaf.empty()))


def leaves(caches: Iterable[Leaf]) -> Iterator[Leaf]:
    """The caches that hold something themselves, in order."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from leaves(cache.caches)
        else:
            yield cache


def _group(cache: Leaf) -> LayerGroup:
    """One cache that has seen the probe. What is of no kind we know is taken for a state that has to be kept whole, of the size it has now."""
    match cache:
        case KVCache():
            return LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=_token_bytes(cache.keys, cache.values))
        case RotatingKVCache():
            return LayerGroup(LayerKind.SLIDING, layers=1, token_bytes=_token_bytes(cache.keys, cache.values), window=cache.max_size)
        case ChunkedKVCache():
            return LayerGroup(LayerKind.CHUNKED, layers=1, token_bytes=_token_bytes(cache.keys, cache.values), window=cache.chunk_size)
        case _:
            return LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=cache.nbytes)


def _token_bytes(*arrays: mx.array) -> int:
    """Of one position of keys or values, (1, heads, positions, size)."""
    return sum(array.nbytes // array.shape[2] for array in arrays)
