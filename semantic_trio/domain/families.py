"""Geometry of a model's caches, from its published configuration, before anything is loaded.

One extractor per family, each naming the caches mlx-lm makes for that family, in its order and with
its defaults: what a configuration says beyond what mlx-lm reads counts for nothing. A family
without an extractor is measured when it is loaded.
"""

from collections.abc import Callable, Iterator, Mapping

import attrs

from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.quantisation import AS_COMPUTED, head_bytes

# Recurrences are summed up in float32, whatever the model computes in; what goes through their
# convolution is not.
RECURRENCE_BITS = 32


class _UnstatedError(Exception):
    """The configuration lacks a number that mlx-lm would miss too."""


@attrs.frozen
class Published:
    """The part of a config.json that is about language, and how its model is held."""

    fields: Mapping[str, object]
    element_bits: int  # of a number the model computes with
    kv_bits: int = AS_COMPUTED  # of a number kept as key or value, see `quantisation`

    def number(self, name: str, default: int | None = None) -> int:
        """A number by its name.

        Raises `_UnstatedError` where it is neither stated nor known otherwise.
        """
        value = self.fields.get(name)
        if isinstance(value, int):
            return value
        if default is None:
            raise _UnstatedError(name)
        return default

    def layers(self, default: int | None = None) -> range:
        """The layers by number."""
        return range(self.number("num_hidden_layers", default))

    def attention(self, token_bytes: int, window: int = 0) -> LayerGroup:
        """A layer of attention that keeps so many bytes for each position: of all positions unless
        there is a window.
        """
        return LayerGroup(
            LayerKind.SLIDING if window else LayerKind.GLOBAL,
            layers=1,
            token_bytes=token_bytes,
            window=window,
        )

    def chunked(self, heads: int, head_dim: int, chunk: int) -> LayerGroup:
        """A layer of attention in chunks. Its keys and values are never quantised."""
        return LayerGroup(
            LayerKind.CHUNKED,
            layers=1,
            token_bytes=2 * heads * head_dim * self.element_bits // 8,
            window=chunk,
        )

    def recurrent(self, convolved: int, summed: int) -> LayerGroup:
        """A recurrent layer: the values its convolution looks back at, and its state."""
        return LayerGroup(
            LayerKind.RECURRENT,
            layers=1,
            state_bytes=(convolved * self.element_bits + summed * RECURRENCE_BITS) // 8,
        )

    def keys_and_values(self, heads: int, head_dim: int) -> int:
        """Bytes kept for a position, where keys and values have equal shapes.

        Raises `InvalidRequestError` for heads that cannot be quantised.
        """
        return 2 * heads * self.head(head_dim)

    def head(self, size: int) -> int:
        """Bytes kept for a position of one head. Raises as `keys_and_values` does."""
        return head_bytes(size, self.kv_bits, self.element_bits)

    @property
    def split_head(self) -> int:
        """The size of a head where the heads share out the hidden size."""
        return self.number("hidden_size") // self.number("num_attention_heads")


Extractor = Callable[[Published], Iterator[LayerGroup]]


def _llama(config: Published) -> Iterator[LayerGroup]:
    heads = config.number("num_key_value_heads", config.number("num_attention_heads"))
    kept = config.keys_and_values(heads, config.number("head_dim", 0) or config.split_head)
    for is_sliding in _sliding(config, config.layers(), lambda _: False):
        yield config.attention(kept, config.number("sliding_window") if is_sliding else 0)


def _qwen2(config: Published) -> Iterator[LayerGroup]:
    kept = config.keys_and_values(config.number("num_key_value_heads"), config.split_head)
    yield from (config.attention(kept) for _ in config.layers())


def _qwen3(config: Published) -> Iterator[LayerGroup]:
    kept = config.keys_and_values(config.number("num_key_value_heads"), config.number("head_dim"))
    yield from (config.attention(kept) for _ in config.layers())


def _gemma3_text(config: Published) -> Iterator[LayerGroup]:
    kept = config.keys_and_values(
        config.number("num_key_value_heads", 1), config.number("head_dim", 256)
    )
    window, pattern = (
        config.number("sliding_window", 512),
        config.number("sliding_window_pattern", 6),
    )
    for layer in config.layers(26):
        yield config.attention(kept, 0 if (layer + 1) % pattern == 0 else window)


def _gemma3(config: Published) -> Iterator[LayerGroup]:
    """The same inside a model that also sees, where another number of heads goes without saying."""
    yield from _gemma3_text(
        attrs.evolve(config, fields={"num_key_value_heads": 4, **config.fields})
    )


def _gpt_oss(config: Published) -> Iterator[LayerGroup]:
    kept = config.keys_and_values(
        config.number("num_key_value_heads", 8), config.number("head_dim", 64)
    )
    window = config.number("sliding_window", 128)
    for is_sliding in _sliding(config, config.layers(36), lambda layer: layer % 2 == 0):
        yield config.attention(kept, window if is_sliding else 0)


def _llama4(config: Published) -> Iterator[LayerGroup]:
    heads, head_dim = (
        config.number("num_key_value_heads"),
        config.number("head_dim", 0) or config.split_head,
    )
    kept, chunk = config.keys_and_values(heads, head_dim), config.number("attention_chunk_size")
    for layer in config.layers():
        yield (
            config.attention(kept)
            if (layer + 1) % 4 == 0
            else config.chunked(heads, head_dim, chunk)
        )


def _deepseek_v3(config: Published) -> Iterator[LayerGroup]:
    """Multi-head latent attention: one latent vector for all heads takes the place of keys and
    values, beside the rotated part of the key.
    """
    kept = config.head(config.number("kv_lora_rank", 512)) + config.head(
        config.number("qk_rope_head_dim", 64)
    )
    yield from (config.attention(kept) for _ in config.layers(30))


def _qwen3_next(config: Published) -> Iterator[LayerGroup]:
    interval = config.number("full_attention_interval", 4)
    full = config.attention(
        config.keys_and_values(config.number("num_key_value_heads"), config.number("head_dim"))
    )
    heads, value_dim = (
        config.number("linear_num_value_heads"),
        config.number("linear_value_head_dim"),
    )
    key_heads, key_dim = config.number("linear_num_key_heads"), config.number("linear_key_head_dim")
    channels = 2 * key_heads * key_dim + heads * value_dim
    linear = config.recurrent(
        (config.number("linear_conv_kernel_dim") - 1) * channels, heads * value_dim * key_dim
    )
    yield from (full if (layer + 1) % interval == 0 else linear for layer in config.layers())


def _mamba2(config: Published) -> Iterator[LayerGroup]:
    state = config.number("ssm_state_size", config.number("state_size"))
    inner = config.number("num_heads") * config.number("head_dim")
    channels = inner + 2 * config.number("n_groups") * state
    yield from (
        config.recurrent((config.number("conv_kernel") - 1) * channels, inner * state)
        for _ in config.layers()
    )


def _falcon_h1(config: Published) -> Iterator[LayerGroup]:
    """A recurrence and attention side by side in every layer."""
    state, inner = config.number("mamba_d_state", 128), config.number("mamba_d_ssm", 1536)
    channels = inner + 2 * config.number("mamba_n_groups", 1) * state
    kept = config.keys_and_values(
        config.number("num_key_value_heads", 2), config.number("head_dim", 64)
    )
    for _ in config.layers(36):
        yield config.recurrent((config.number("mamba_d_conv", 4) - 1) * channels, inner * state)
        yield config.attention(kept)


# By `model_type`; the last two are what mlx-lm runs as another family.
EXTRACTORS: Mapping[str, Extractor] = {
    "deepseek_v3": _deepseek_v3,
    "falcon_h1": _falcon_h1,
    "gemma3": _gemma3,
    "gemma3_text": _gemma3_text,
    "gpt_oss": _gpt_oss,
    "llama": _llama,
    "llama4": _llama4,
    "mamba2": _mamba2,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3,
    "qwen3_next": _qwen3_next,
    "kimi_k2": _deepseek_v3,
    "mistral": _llama,
}


def published_spec(
    config: Mapping[str, object],
    fingerprint: str,
    element_bits: int = 16,
    kv_bits: int = AS_COMPUTED,
) -> ModelCacheSpec | None:
    """Return the geometry of a model's caches, from its config.json.

    `element_bits`: of a number the model computes with. `kv_bits`: of a number kept as key or
    value, see `quantisation`. None where the family is unknown, or a number is missing: only the
    loaded model can tell then. Raises `InvalidRequestError` for heads that cannot be quantised.
    """
    extract = EXTRACTORS.get(str(config.get("model_type")))
    if extract is None:
        return None
    text = config.get("text_config")
    fields = text if isinstance(text, Mapping) else config
    try:
        return ModelCacheSpec.of(fingerprint, extract(Published(fields, element_bits, kv_bits)))
    except _UnstatedError:
        return None


def _sliding(config: Published, layers: range, otherwise: Callable[[int], bool]) -> list[bool]:
    """Return which layers have a window: as `layer_types` lists them, else by their number."""
    stated = config.fields.get("layer_types")
    if isinstance(stated, list | tuple):
        return [kind == "sliding_attention" for kind in stated]
    return [otherwise(layer) for layer in layers]
