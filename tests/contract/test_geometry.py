"""What a configuration says its model's caches are, against what they are."""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from tests.device import on_device  # first: it loads the BLAS

import mlx.core as mx  # isort: skip
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import MODEL_REMAPPING

from semantic_trio.adapters.mlx.geometry import leaves, measure_spec
from semantic_trio.adapters.mlx.quantised import quantise_caches
from semantic_trio.domain.families import EXTRACTORS, published_spec
from semantic_trio.domain.geometry import LayerKind, ModelCacheSpec
from semantic_trio.domain.quantisation import AS_COMPUTED
from tests.contract.architectures import tiny_model
from tests.contract.models import FAMILIES, SIZE, WIDE_HEADS

TEXT: dict[str, object] = SIZE | {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "rope_theta": 1e4,
}
# Families of this file alone, and others with sizes that cannot be taken for each other.
MORE: dict[str, dict[str, object]] = {
    "gemma3": {
        "vocab_size": 300,
        "text_config": FAMILIES["gemma3_text"]
        | {"model_type": "gemma3_text", "num_attention_heads": 4},
    },
    "llama4": {
        "text_config": TEXT
        | {
            "model_type": "llama4_text",
            "attention_bias": False,
            "attention_chunk_size": 8,
            "interleave_moe_layer_step": 1,
            "intermediate_size_mlp": 96,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rope_scaling": None,
            "use_qk_norm": False,
        }
    },
    "qwen3_next": TEXT
    | {
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "partial_rotary_factor": 0.5,
    },
    "qwen3_moe": TEXT
    | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
    "falcon_h1": TEXT
    | {
        "mamba_d_ssm": 48,
        "mamba_d_head": 12,
        "mamba_n_heads": 4,
        "mamba_d_state": 16,
        "mamba_n_groups": 2,
        "mamba_d_conv": 3,
    },
}
CONFIGS: Mapping[str, Mapping[str, object]] = {
    family: {"model_type": family, **shape} for family, shape in {**FAMILIES, **MORE}.items()
}
# Inside of every window and chunk, at their ends, and beyond; around the end of a block.
POSITIONS = (1, 7, 8, 31, 32, 33, 255, 257)


def model_of(config: Mapping[str, object], dtype: mx.Dtype) -> Module:
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model: Module = module.Model(module.ModelArgs.from_dict({**config}))
    model.set_dtype(dtype)
    return model


def described(
    config: Mapping[str, object], dtype: mx.Dtype, kv_bits: int = AS_COMPUTED
) -> ModelCacheSpec:
    found = published_spec(config, "f", dtype.size * 8, kv_bits)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_extractor_says_what_is_measured(family: str, dtype: mx.Dtype) -> None:
    assert on_device(lambda: measure_spec(model_of(CONFIGS[family], dtype), "f")) == described(
        CONFIGS[family], dtype
    )


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize("family", WIDE_HEADS)
def test_the_extractor_says_what_is_measured_of_quantised_keys_and_values(
    family: str, kv_bits: int, dtype: mx.Dtype
) -> None:
    config = WIDE_HEADS[family]
    model = on_device(lambda: model_of(config, dtype))
    on_device(lambda: quantise_caches(model, kv_bits))

    assert on_device(lambda: measure_spec(model, "f")) == described(config, dtype, kv_bits)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_bytes_at_a_position_are_those_a_row_has_to_keep(family: str) -> None:
    model = on_device(lambda: model_of(CONFIGS[family], mx.float32))
    spec = described(CONFIGS[family], mx.float32)

    assert {p: on_device(functools.partial(kept_bytes, model, p)) for p in POSITIONS} == {
        p: by_kind(spec, p) for p in POSITIONS
    }


def test_every_extractor_is_compared_with_a_model() -> None:
    """Some are other families under another name."""
    assert {MODEL_REMAPPING.get(family, family) for family in EXTRACTORS} == set(CONFIGS)


def test_a_cache_of_no_kind_we_know_is_a_state_to_keep_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = on_device(lambda: model_of(CONFIGS["qwen2"], mx.float32))
    monkeypatch.setattr(
        model, "make_cache", lambda: [Unheard() for _ in model.layers], raising=False
    )
    [group] = on_device(lambda: measure_spec(model, "f")).groups

    assert (group.kind, group.layers, group.state_bytes) == (LayerKind.RECURRENT, 4, 4 * 1000)


def test_a_cache_of_no_kind_we_know_that_grows_is_counted_by_its_tokens() -> None:
    """DeepSeek V4.1 has caches of its own; what they hold of a long row was counted as what they
    hold of three tokens.
    """

    def measured() -> tuple[int, int]:
        model, read = tiny_model("deepseek_v41"), 1000
        caches = make_prompt_cache(model)
        model(mx.zeros((1, read), mx.int32), cache=caches)
        return sum(cache.nbytes for cache in caches), measure_spec(model, "f").context_bytes(read)

    held, counted = on_device(measured)

    assert held <= counted <= held * 1.1


class Unheard:
    """As much of a cache as attention needs."""

    offset, nbytes = 0, 1000

    def make_mask(self, *_: object, **__: object) -> None:
        return None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values

    def empty(self) -> bool:
        return False


def kept_bytes(model: Module, position: int) -> dict[LayerKind, int]:
    """Read so many tokens, the last ones one by one, and take from each cache what the next token
    may look at.
    """
    caches = make_prompt_cache(model)
    chunk = max(position - 3, 1)
    for count in (chunk, *[1] * (position - chunk)):
        mx.eval(model(mx.zeros((1, count), mx.int32), cache=caches))
    found = dict.fromkeys(LayerKind, 0)
    for leaf in leaves(caches):
        kind, arrays = kept(leaf, position)
        mx.eval(arrays)
        found[kind] += sum(array.nbytes for array in arrays)
    return found


def kept(cache: Any, position: int) -> tuple[LayerKind, list[mx.array]]:
    """Copies, so that their bytes are their own."""
    match cache:
        case KVCache():
            return LayerKind.GLOBAL, [
                mx.contiguous(array[..., : cache.offset, :]) for array in (cache.keys, cache.values)
            ]
        case RotatingKVCache():
            rows = min(position, cache.max_size)
            arrays = [
                cache._temporal_order(array)[..., -rows:, :] for array in (cache.keys, cache.values)
            ]
            assert all(array.shape[2] == rows for array in arrays), (
                "the cache holds what has to be kept"
            )
            return LayerKind.SLIDING, [mx.contiguous(array) for array in arrays]
        case ChunkedKVCache():
            first, last = (
                position - position % cache.chunk_size - cache.start_position,
                position - cache.start_position,
            )
            assert first >= 0, "the cache holds what has to be kept"
            return LayerKind.CHUNKED, [
                mx.contiguous(array[..., first:last, :]) for array in (cache.keys, cache.values)
            ]
        case _:
            return LayerKind.RECURRENT, [array for array in cache.cache if array is not None]


def by_kind(spec: ModelCacheSpec, position: int) -> dict[LayerKind, int]:
    return {
        kind: sum(group.bytes_at(position) for group in spec.groups if group.kind is kind)
        for kind in LayerKind
    }
