"""Tiny random models of every type that mlx-lm has, from tiny values for the fields of its
configurations.
"""

import importlib
import math
from pathlib import Path
from typing import Any

from tests.device import on_device, shared_device  # first: it loads the BLAS

import mlx.core as mx  # isort: skip
import mlx_lm.models
from mlx.nn.layers.base import Module

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.kv import Layout, RowSpan
from semantic_trio.adapters.mlx.runner import DeviceRows, MlxRunner

ALTERNATING = ["sliding_attention", "full_attention"] * 2
HYBRID = ["linear_attention", "full_attention"] * 2
ROPES = {"rope_theta": 1e4, "rope_type": "default"}
ROPE_BY_KIND = {"full_attention": ROPES, "sliding_attention": ROPES}
# Values by the name of the field. A configuration takes those that it has.
TINY: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "norm_eps": 1e-5, "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "use_bias": False,
    # Windows and experts.
    "sliding_window": 32, "sliding_window_size": 32, "window_size": 32, "attention_window_size": 32, "attention_chunk_size": 32,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "num_experts_per_token": 2,
    "moe_topk": 2, "moe_top_k": 2, "top_k_experts": 2, "moe_k": 2, "moe_intermediate_size": 32, "n_shared_experts": 1, "num_shared_experts": 1,
    "num_shared_expert": 1, "moe_num_shared_experts": 1, "share_expert_dim": 32, "moe_hidden_size": 64, (
        "shared_expert_intermediate_size"
    ): 32,
    "shared_intermediate_size": 32, "dense_intermediate_size": 96, "intermediate_size_mlp": 96, (
        "moe_shared_expert_intermediate_size"
    ): 32,
    "expert_ffn_hidden_size": 32, "ffn_hidden_size": 96, "n_group": 1, "topk_group": 1, "num_expert_group": 1, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "decoder_sparse_step": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "mlp_only_layers": [],
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_interval": 1, "moe_layer_start_index": 1, "num_dense_layers": 1,
    "use_expert_bias": True, "zero_expert_num": 1, "zero_expert_type": "identity", "use_mixed_mlp_moe": True, "interleave_moe_layer_step": 2,
    "expert_layer_offset": 1, "expert_layer_period": 2, "attn_layer_offset": 1, "attn_layer_period": 2,
    # Latent attention, and its index.
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "index_head_dim": 16,
    "index_n_heads": 2, "index_topk": 8, "o_groups": 2, "o_lora_rank": 16, "attention_method": "MLA", "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    # Recurrent layers.
    "conv_kernel": 4, "conv_L_cache": 3, "conv_bias": False, "conv1d_width": 4, "conv_window": 2, "state_size": 16, "ssm_state_size": 16,
    "n_groups": 1, "num_heads": 8, "time_step_limit": [0.0, 1e9], "time_step_rank": 4, "use_conv_bias": True, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "mamba_proj_bias": False, "mamba_conv_bias": True, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16,
    "mamba_d_conv": 4, "mamba_n_groups": 1, "mamba_d_ssm": 64, "mamba_expand": 2, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "linear_allow_neg_eigval": True,
    "full_attention_interval": 2, "layer_group_size": 2, "group_norm_size": 2, "a_low_rank_dim": 8, "v_low_rank_dim": 8,
    "gate_low_rank_dim": 8, "decay_low_rank_dim": 8, "logits_soft_cap": 30.0, "block_types": ["recurrent", "attention"],
    "short_conv_kernel_size": 4,
    "linear_attn_config": {"kda_layers": [1, 3], "full_attn_layers": [2, 4], "num_heads": 4, "head_dim": 16, "short_conv_kernel_size": 4},
    # Names of few.
    "n_ctx": 4096, "n_embd": 64, "n_head": 4, "n_layer": 4, "n_layers": 4, "n_heads": 4, "n_positions": 4096, "n_inner": 96, "n_kv_heads": 2,
    "d_model": 64, "block_size": 4096, "num_layers": 4, "hidden_dim": 64, "num_kv_heads": 2, "rotary_dim": 8, "partial_rotary_factor": 0.5,
    "rotary_pct": 0.5, "rotary_emb_base": 10000, "embedding_size": 300, "mlp_hidden_size": 192, "attention_multiplier": 0.25,
    "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0, "scale_depth": 1.4, "scale_emb": 1.0, "dim_model_base": 64,
    "use_qk_norm": True, "qk_norm": True, "use_qkv_bias": False, "final_logit_softcapping": 30.0, "output_multiplier": 1.0,
    "post_norm_eps": 1e-5, "rope_scaling": None, "use_cla": False, "cla_share_factor": 2, "post_norm": True,
    "rope_local_base_freq": 1e4, "sliding_window_pattern": 2, "model_max_length": 4096, "num_attention_groups": 2,
}  # fmt: skip
# What differs by type. A dictionary under "text_config" is merged with the rest.
GEMMA3N: dict[str, Any] = {
    "num_kv_shared_layers": 2, "layer_types": ALTERNATING + ALTERNATING[:2], "num_hidden_layers": 6, "activation_sparsity_pattern": [0.0] * 6,
    "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "altup_coef_clip": 120.0,
    "altup_correct_scale": True, "altup_active_idx": 0, "laurel_rank": 8,
}  # fmt: skip
GEMMA4: dict[str, Any] = {
    "num_kv_shared_layers": 2, "layer_types": ALTERNATING + ALTERNATING[:2], "num_hidden_layers": 6, "global_head_dim": 32,
    "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "num_experts": None, "top_k_experts": None,
}  # fmt: skip
QWEN3_5 = {
    "rope_parameters": ROPES
    | {"type": "default", "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
}
LFM2: dict[str, Any] = {
    "layer_types": ["conv", "full_attention"] * 2, "block_dim": 64, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0, "block_ff_dim": 96,
    "block_auto_adjust_ff_dim": False,
}  # fmt: skip
YARN = {
    "type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 4096,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LLAMA4_ROPE = ROPES | {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}
MORE: dict[str, dict[str, Any]] = {
    "afm7": {"num_heads": 4, "num_kv_reuse_layers": 2},
    "afmoe": {"layer_types": ALTERNATING},
    "baichuan_m1": {"sliding_window_layers": [0, 2]},
    "bailing_hybrid": {"num_key_value_heads": 4},
    "bailing_moe_linear": {"num_key_value_heads": 4},
    "bailing_moe_v3": {},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
    },
    "deepseek_v41": {
        "compress_ratios": (4, 4, 4, 4),
        "kv_source_layer_ids": (0, 1, 2, 3),
        "index_source_layer_ids": (0, 1, 2, 3),
        "scoring_func": "sqrtsoftplus",
    },
    "deepseek_v2": {"rope_scaling": YARN},
    "exaone4": {"sliding_window_pattern": "LG", "rope_scaling": {"rope_type": "default"}},
    "exaone_moe": {"layer_types": ALTERNATING, "is_moe_layer": [False, True] * 2},
    "gear": {"layer_types": ALTERNATING},
    "gemma3": {"model_type": "gemma3_text"},
    "gemma3n": GEMMA3N,
    "gemma4": GEMMA4,
    "gemma4_text": GEMMA4,
    "hunyuan": {"rope_scaling": {"alpha": 1000.0, "type": "dynamic", "factor": 1.0}},
    "kimi_k3": {"num_experts_per_token": 2, "activation_situ_beta": 1.0, "activation_situ_linear_beta": 1.0, "attn_res_block_size": 2},
    "ministral3": {"rope_parameters": LLAMA4_ROPE, "layer_types": None},
    "minicpm3": {"rope_scaling": {(
        "original_max_position_embeddings"
    ): 4096, "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}},
    "mistral4": {"rope_parameters": LLAMA4_ROPE, "num_key_value_heads": 4},
    "nemotron": {"hidden_act": "relu2"},
    "plamo": {"n_shared_head": 2},
    "qwen": {"kv_channels": 16, "intermediate_size": 192},
    "glm_moe_dsa": {"rope_parameters": ROPES},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "lfm2": LFM2,
    "lfm2-vl": LFM2 | {"model_type": "lfm2"},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "llama4": {"num_experts_per_tok": 1},
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0]},
    "longcat_flash_ngram": {"ngram_vocab_size_ratio": 2},
    "mellum": {"layer_types": ALTERNATING, "rope_parameters": ROPE_BY_KIND},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0, 1], "moe_layer_freq": [0, 1, 0, 1], "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False, "swa_rope_theta": 1e4, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
        "swa_head_dim": 16, "swa_v_head_dim": 16,
    },
    "minimax_m3_vl": {
        "moe_layer_freq": [0, 1, 1, 1], "index_block_size": 8, "index_topk_blocks": 2, "sparse_attention_freq": [0, 1, 0, 1],
    },
    "muse_glimmer": {"layer_types": ALTERNATING},
    "muse_spark": {"layer_types": ALTERNATING, "rope_parameters": ROPES, "layer_rope_theta": [1e4] * 4, "num_shared_experts": 0},
    "nemotron-nas": {
        "block_configs": [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}}] * 3
        + [{"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.5}}],
        "hidden_act": "silu",
    },
    "nemotron_h": {"hybrid_override_pattern": ["M", "*", "M", "-"]},
    "olmo_hybrid": {"layer_types": HYBRID},
    "openelm": {
        "num_transformer_layers": 4, "model_dim": 64, "ffn_dim_divisor": 8, "num_query_heads": [4] * 4, "num_kv_heads": [2] * 4,
        "ffn_multipliers": [1.5] * 4,
    },
    "phi3small": {(
        "dense_attention_every_n_layers"
    ): 2, "ff_intermediate_size": 96, "gegelu_limit": 20.0, "vocab_size": 100352},
    "phixtral": {"model_dim": 64, "num_vocab": 300, "num_heads": 4, "rotary_dim": 8},
    "plamo2": {"hidden_size_per_head": 16},
    "prism_hadamard_qwen35": {},
    "qwen3_5": QWEN3_5 | {"num_experts": 0},
    "qwen3_5_moe": QWEN3_5,
    "qwen3_next": {},
    "recurrent_gemma": {},
    "spark2_5": {"layer_types": ALTERNATING, "rope_parameters": ROPE_BY_KIND},
    "step3p5": {"layer_types": ALTERNATING},
}  # fmt: skip

# Types of which no tiny model can be built here.
UNBUILT = ("bitnet", "muse_spark", "olmo", "prism_hadamard_qwen35")


def _types() -> list[str]:
    """Modules of mlx-lm that hold a model, by `model_type`.

    They are not imported: one of them ends the process.
    """
    sources = {path.stem: path.read_text() for path in Path(mlx_lm.models.__path__[0]).glob("*.py")}
    return sorted(
        name
        for name, source in sources.items()
        if "class Model(" in source and "ModelArgs" in source
    )


TYPES = _types()


def config_of(name: str) -> dict[str, Any]:
    """A tiny configuration of a type."""
    values = TINY | {"model_type": name} | MORE.get(name, {})
    return values | {"text_config": values | {"model_type": values["model_type"]}}


def tiny_model(name: str) -> Module:
    """A random model with weights large enough that its logits depend visibly on every position."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(7)
    model: Module = module.Model(module.ModelArgs.from_dict(config_of(name)))
    model.apply(_enlarged)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def _enlarged(array: mx.array) -> mx.array:
    """Some heads begin as zeros."""
    if array.ndim < 2:
        return array
    return array * 3 if mx.any(array).item() else mx.random.normal(array.shape)


def tiny_runner(name: str) -> MlxRunner:
    """A runner of a tiny random model, with the layout that is chosen for it."""

    def build() -> MlxRunner:
        model = tiny_model(name)
        return MlxRunner(
            shared_device(), DeviceRows(choose_layout(model)), measure_spec(model, name)
        )

    return on_device(build)


# Tokens of rows by pass: rows that are read in pieces, join and leave, also one with a prompt of
# one token. Of each of the first three rows more than 20 positions are forced.
ALTOGETHER = [{"a": 1, "b": 1, "c": 1}]
PASSES: list[dict[str, int]] = [
    {"a": 25, "b": 3},
    {"a": 15, "b": 1},
    *[{"a": 1, "b": 1}] * 5,
    {"a": 1, "b": 1, "c": 17},
    *ALTOGETHER * 16,
    *[{"c": 1, "a": 1}] * 4,  # b has left
    {"c": 1, "a": 1, "d": 1},
    *[{"a": 1, "c": 1, "d": 1}] * 4,
    {"a": 40, "c": 1, "d": 1},
    {"a": 1, "c": 1, "d": 1},
]


def forced_logits(layout: Layout) -> list[mx.array]:
    """Logits of every pass over rows that read forced tokens, of the last token of each row."""
    rows: dict[str, Any] = {}
    found = []
    for number, counts in enumerate(PASSES):
        for name in [name for name in rows if name not in counts]:
            layout.close(rows.pop(name))
        for name in counts:
            rows[name] = rows.get(name) or layout.open()
        tokens = mx.array([(i * 31 + number * 7) % 199 + 1 for i in range(sum(counts.values()))])
        logits = layout.forward(
            tokens,
            [RowSpan(rows[name], count, wants_logits=True) for name, count in counts.items()],
        )
        assert logits is not None
        found.append(logits)
        mx.eval(logits)
    for row in rows.values():
        layout.close(row)
    return found


def largest_difference(found: list[mx.array], wanted: list[mx.array]) -> float:
    """The largest difference between logits as a part of their range; those that are ruled out in
    both are equal.
    """
    ours, theirs = mx.concatenate(found), mx.concatenate(wanted)
    never = (ours == -math.inf) & (theirs == -math.inf)
    ours, theirs = mx.where(never, 0, ours), mx.where(never, 0, theirs)
    return float((mx.abs(ours - theirs).max() / (theirs.max() - theirs.min())).item())  # type: ignore[arg-type]


def rows_of_the_manual() -> dict[str, tuple[str, ...]]:
    """What docs/types.md says of each type: how rows are served, whether that is exact, whether
    what is kept is restored exactly, and as what it is kept.
    """
    lines = (Path(__file__).parents[2] / "docs" / "types.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): tuple(row[1:5]) for row in rows}
