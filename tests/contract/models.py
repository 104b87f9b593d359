"""Tiny random models of the families mlx-lm serves, on a device of their own."""

import importlib

import mlx.core as mx
from mlx.nn.layers.base import Module

from semantic_trio.adapters.mlx.kv import Layout, choose_layout
from semantic_trio.adapters.mlx.runner import Batch, MlxRunner
from tests.device import on_device, shared_device

SIZE: dict[str, object] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": SIZE | {"num_key_value_heads": 2},
    "qwen3": SIZE | {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "rope_theta": 1e4, "tie_word_embeddings": False},
    "gemma3_text": SIZE | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 32, "sliding_window_pattern": 2},
    "gpt_oss": SIZE
    | {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1e4},
    # Recurrent layers beside attention: their caches cannot be looked at row by row.
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


def random_model(family: str) -> Module:
    """A model with weights large enough that its log-probabilities depend visibly on every position."""
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(7)
    model: Module = module.Model(module.ModelArgs.from_dict({"model_type": family, **FAMILIES[family]}))
    model.apply(lambda array: array * 3 if array.ndim > 1 else array)
    mx.eval(model.parameters())
    return model


def random_runner(family: str, *, look_ahead: bool = True) -> MlxRunner:
    """A runner of a random model on the shared device."""
    layout: Layout = on_device(lambda: choose_layout(random_model(family)))
    return MlxRunner(shared_device(), Batch(layout, look_ahead=look_ahead))
