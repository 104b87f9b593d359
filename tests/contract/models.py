"""Tiny random models of the families mlx-lm serves, on a device of their own."""

import importlib

import mlx.core as mx
from mlx.nn.layers.base import Module

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.embedding import embedding_size, reads_together
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.kv import Layout
from semantic_trio.adapters.mlx.paged import PagedLayout
from semantic_trio.adapters.mlx.quantised import quantise_caches
from semantic_trio.adapters.mlx.runner import DeviceRows, MlxRunner
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.quantisation import AS_COMPUTED
from tests.device import on_device, shared_device

SIZE: dict[str, object] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
}
WINDOWED: dict[str, object] = {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 32,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "rope_theta": 1e4,
}
# What the matrices of random models are multiplied by. With the calm one attention looks at many
# positions at once, so that a single number that is quantised in another way does not change
# everything after it.
GAIN, CALM_GAIN = 3.0, 1.0
LLAMA4_TEXT: dict[str, object] = SIZE | {
    "model_type": "llama4_text",
    "attention_bias": False,
    "attention_chunk_size": 32,
    "head_dim": 16,
    "interleave_moe_layer_step": 2,
    "intermediate_size_mlp": 96,
    "max_position_embeddings": 4096,
    "num_experts_per_tok": 1,
    "num_key_value_heads": 2,
    "num_local_experts": 2,
    "rope_scaling": None,
    "rope_theta": 1e4,
    "use_qk_norm": False,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": SIZE | {"num_key_value_heads": 2},
    "qwen2": SIZE | {"num_key_value_heads": 2},
    "qwen3": SIZE
    | {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    },
    "gemma3_text": SIZE
    | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 32, "sliding_window_pattern": 2},
    "gpt_oss": SIZE | WINDOWED,
    # Recurrent layers alone, or beside attention: their caches cannot be looked at row by row.
    "mamba2": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "vocab_size": 300,
        "num_heads": 8,
        "head_dim": 16,
        "intermediate_size": 128,
        "state_size": 16,
        "conv_kernel": 4,
        "n_groups": 1,
        "layer_norm_epsilon": 1e-5,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": [0.0, 1e9],
        "time_step_rank": 4,
    },
    "qwen3_next": SIZE
    | {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 0,
        "num_experts_per_tok": 0,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 0,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": 4096,
    },
    # A recurrent cache and one of attention in each layer. The published multipliers leave a tiny
    # model next to no range.
    "falcon_h1": SIZE
    | {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "attention_out_multiplier": 4.0,
        "key_multiplier": 1.0,
        "lm_head_multiplier": 2.0,
        "mamba_d_ssm": 64,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_n_heads": 4,
        "max_position_embeddings": 4096,
        "rope_theta": 1e4,
    },
    # Attention in chunks beside global attention.
    "llama4": {"text_config": LLAMA4_TEXT},
    # Multi-head latent attention: keys are multiplied outside of the attention function.
    "deepseek_v3": SIZE
    | {
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "max_position_embeddings": 4096,
    },
}
# With the window gpt-oss really has, half of a block.
VARIANTS: dict[str, dict[str, object]] = {
    "gpt_oss_128": FAMILIES["gpt_oss"] | {"model_type": "gpt_oss", "sliding_window": 128},
}
# With a head of its own, where others use the embeddings for it.
HEADS: dict[str, dict[str, object]] = {
    "llama_head": FAMILIES["llama"] | {"model_type": "llama", "tie_word_embeddings": False},
}


# Served from pages although the device is a CPU, where a layout of its own is the faster one.
PAGED = {
    "llama_paged": "llama",
    "gemma3_paged": "gemma3_text",
    "gpt_oss_paged": "gpt_oss_128",
    "deepseek_v3_paged": "deepseek_v3",
}
HEADS_PAGED = {"llama_head_paged": "llama_head"}
# With heads that can be quantised, and without a choice of experts: a number that is quantised in
# another way may change that.
WIDE_HEADS: dict[str, dict[str, object]] = {
    "llama_wide": FAMILIES["llama"] | {"model_type": "llama", "head_dim": 32},
    "gemma3_wide": FAMILIES["gemma3_text"] | {"model_type": "gemma3_text", "head_dim": 64},
    "gpt_oss_wide": FAMILIES["gpt_oss"]
    | {"model_type": "gpt_oss", "head_dim": 32, "num_experts_per_tok": 4},
    "qwen3_next_wide": FAMILIES["qwen3_next"] | {"model_type": "qwen3_next", "head_dim": 32},
    "falcon_h1_wide": FAMILIES["falcon_h1"] | {"model_type": "falcon_h1", "head_dim": 32},
    "deepseek_v3_wide": FAMILIES["deepseek_v3"]
    | {
        "model_type": "deepseek_v3",
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 32,
        "num_experts_per_tok": 4,
    },
    "llama4_wide": {"model_type": "llama4", "text_config": LLAMA4_TEXT | {"head_dim": 32}},
}
WIDE_PAGED = ("llama_wide", "gemma3_wide", "gpt_oss_wide", "deepseek_v3_wide")
# By name the model, the bits of its keys and values, and whether it is served from pages.
QUANTISED: dict[str, tuple[str, int, bool]] = {
    **{f"{family}_{bits}bits": (family, bits, False) for family in WIDE_HEADS for bits in (8, 4)},
    **{
        f"{family}_paged_{bits}bits": (family, bits, True)
        for family in WIDE_PAGED
        for bits in (8, 4)
    },
}
# By name the model, and the tokens of its blocks.
SIZED: dict[str, tuple[str, int]] = {
    "llama_blocks_of_64": ("llama", 64),
    "qwen3_next_blocks_of_1024": ("qwen3_next", 1024),
    "llama_paged_blocks_of_1024": ("llama_paged", 1024),
    "gemma3_paged_blocks_of_64": ("gemma3_paged", 64),
    "llama_wide_paged_8bits_blocks_of_64": ("llama_wide_paged_8bits", 64),
}


def random_model(family: str, dtype: mx.Dtype = mx.float32) -> Module:
    """A model with weights large enough that its log-probabilities depend visibly on every
    position.
    """
    family, _ = SIZED.get(family, (family, 0))
    family, kv_bits, _ = QUANTISED.get(
        family, ((PAGED | HEADS_PAGED).get(family, family), AS_COMPUTED, False)
    )
    gain = CALM_GAIN if family in WIDE_HEADS else GAIN
    arguments = {"model_type": family, **(FAMILIES | VARIANTS | HEADS | WIDE_HEADS)[family]}
    module = importlib.import_module(f"mlx_lm.models.{arguments['model_type']}")
    mx.random.seed(7)
    model: Module = module.Model(module.ModelArgs.from_dict(arguments))
    model.apply(lambda array: array * gain if array.ndim > 1 else array)
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    quantise_caches(model, kv_bits)
    return model


def random_runner(
    family: str, *, look_ahead: bool = True, dtype: mx.Dtype = mx.float32
) -> MlxRunner:
    """A runner of a random model on the shared device."""
    model = on_device(lambda: random_model(family, dtype))
    base, block_tokens = SIZED.get(family, (family, BLOCK_TOKENS))
    is_paged = base in PAGED | HEADS_PAGED or (base in QUANTISED and QUANTISED[base][2])
    layout: Layout = on_device(
        lambda: PagedLayout(model, page_tokens=block_tokens) if is_paged else choose_layout(model)
    )
    spec = on_device(
        lambda: measure_spec(model, family, is_paged=is_paged, block_tokens=block_tokens)
    )
    batch = DeviceRows(layout, look_ahead=look_ahead, block_tokens=block_tokens)
    size, together = on_device(lambda: (embedding_size(model), reads_together(model)))
    return MlxRunner(shared_device(), batch, spec, size, together)
