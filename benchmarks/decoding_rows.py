"""Cost of a step of decoding rows, by class of layers: all rows with the layout that is chosen, and
one row at a time.

python benchmarks/decoding_rows.py [--rows 1 8] [--context 256] [--dtype float32] [--types qwen3_5
lfm2 ...]

Random weights at the size of a model of some 50 million parameters. Layouts take turns within a
run, so that a noisy minute is everybody's. Beside the ratio of times is that of processor time,
which neighbours on a shared CPU move less; it needs OPENBLAS_NUM_THREADS=1, for threads that wait
for each other burn time.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RowSpan

import mlx.core as mx  # isort: skip - after the BLAS
from mlx.nn.layers.base import Module

SIZE: dict[str, object] = {
    "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
    "vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "rope_theta": 1e4, "tie_word_embeddings": True,
    "attention_bias": False, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5,
}  # fmt: skip
DELTA: dict[str, object] = {
    "linear_num_value_heads": 8, "linear_num_key_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True, "full_attention_interval": 4, "partial_rotary_factor": 0.5,
}  # fmt: skip
MAMBA: dict[str, object] = {
    "mamba_num_heads": 16, "mamba_head_dim": 64, "ssm_state_size": 64, "conv_kernel": 4, "n_groups": 1, "mamba_proj_bias": False, "mlp_bias": False,
    "use_bias": False, "use_conv_bias": True, "mamba_n_heads": 16, "mamba_d_head": 64, "mamba_d_state": 64, "mamba_d_conv": 4, "mamba_n_groups": 1,
    "mamba_conv_bias": True, "mamba_d_ssm": 1024,
}  # fmt: skip
LATENT: dict[str, object] = {
    "q_lora_rank": 256, "kv_lora_rank": 128, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": None,
    "num_key_value_heads": 8, "first_k_dense_replace": 8, "moe_intermediate_size": 512, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1,
}  # fmt: skip
TYPES: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen3_5": DELTA,
    "olmo_hybrid": DELTA | {"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 2},
    "nemotron_h": MAMBA | {"hybrid_override_pattern": list("M-M*M-M*")},
    "granitemoehybrid": MAMBA
    | {
        "layer_types": ["mamba", "mamba", "mamba", "attention"] * 2, "embedding_multiplier": 1.0, "attention_multiplier": 0.1, "logits_scaling": 1.0,
        "residual_multiplier": 1.0, "shared_intermediate_size": 1536,
    },
    "falcon_h1": MAMBA,
    "lfm2": {
        "layer_types": ["conv", "conv", "conv", "full_attention"] * 2, "conv_bias": False, "conv_L_cache": 3, "block_dim": 512, "block_ff_dim": 1536,
        "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False,
    },
    "deepseek_v3": LATENT,
    "gemma4_text": {
        "num_kv_shared_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 4, "global_head_dim": 64, "sliding_window": 512,
        "vocab_size_per_layer_input": 32000, "hidden_size_per_layer_input": 32,
    },
    "llama4": {
        "attention_chunk_size": 512, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 1536, "num_experts_per_tok": 1,
        "num_local_experts": 4, "use_qk_norm": True, "rope_scaling": None,
    },
}  # fmt: skip


@attrs.frozen(eq=False)
class Rows:
    """Rows that decode with one layout."""

    layout: Layout
    caches: Sequence[list[object]]

    @classmethod
    def read(cls, layout: Layout, count: int, context: int) -> "Rows":
        """Open rows that have read so many tokens."""
        caches = [layout.open() for _ in range(count)]
        for row in caches:
            mx.eval(
                layout.forward(
                    mx.arange(context) % 30000, [RowSpan(row, context, wants_logits=True)]
                )
            )
        return cls(layout, caches)

    def step(self) -> tuple[float, float]:
        """Seconds of a step, and of processor time."""
        began, busy = time.perf_counter(), time.process_time()
        written, _ = self.layout.unread([])
        spans = [RowSpan(row, 1, wants_logits=True) for row in self.caches]
        mx.eval(self.layout.forward(mx.ones(len(spans), mx.int32), spans), written)
        return time.perf_counter() - began, time.process_time() - busy


def build(
    name: str, dtype: str, more: Mapping[str, object] = MappingProxyType({})
) -> tuple[Module, dict[str, object]]:
    """A random model of a type, and its configuration; `more` are fields of that."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    values = {**SIZE, **TYPES[name], **more, "model_type": name}
    config = values | {"text_config": values}
    model: Module = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(getattr(mx, dtype))
    mx.eval(model.parameters())
    return model, config


def said(counts: Sequence[int], rounds: Sequence[Sequence[tuple[float, float]]]) -> str:
    """The figures of rounds of which each has a step of every number of rows with the chosen
    layout, then with rows in turn.
    """
    times, busy = (
        [statistics.median(kind) * 1000 for kind in zip(*of_kind, strict=True)]
        for of_kind in zip(*(zip(*one, strict=True) for one in rounds), strict=True)
    )
    kinds = len(counts)
    steps = ", ".join(
        f"{count} rows {ours:.1f} (in turn {theirs:.1f})"
        for count, ours, theirs in zip(counts, times[:kinds], times[kinds:], strict=True)
    )
    return (
        f"{steps} ms; {times[kinds - 1] / times[0]:.2f} times one row (in turn "
        f"{times[-1] / times[kinds]:.2f}), of processor time {busy[kinds - 1] / busy[0]:.2f} (in "
        f"turn {busy[-1] / busy[kinds]:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--types", nargs="*", choices=TYPES, default=list(TYPES))
    arguments = parser.parse_args()
    for name in arguments.types:
        model, _ = build(name, arguments.dtype)
        chosen = choose_layout(model)
        kinds: list[Layout] = [chosen, InTurnLayout(model)]
        rows = [
            Rows.read(layout, count, arguments.context)
            for layout in kinds
            for count in arguments.rows
        ]
        rounds = [[one.step() for one in rows] for _ in range(arguments.steps)]
        print(f"{name}, {chosen.name}: {said(arguments.rows, rounds[3:])}", flush=True)


if __name__ == "__main__":
    main()
