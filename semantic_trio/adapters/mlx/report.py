"""Results of the layouts on this device: for people who report it from machines that the developers
do not have.

Builds tiny random models, proves each layout on them, and times their steps. Runs on the thread
that calls it.
"""

import importlib
import time
from collections.abc import Iterator, Mapping

import mlx.core as mx
from mlx.nn.layers.base import Module

from semantic_trio.adapters.mlx.choosing import Proof, probe, probe_lengths, prove
from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RaggedLayout, RowSpan
from semantic_trio.adapters.mlx.paged import PagedLayout

SIZES: dict[str, object] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
NORM: dict[str, object] = {"rms_norm_eps": 1e-5, "num_key_value_heads": 2}
EXPERTS: dict[str, object] = {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1e4}
# One for each thing that the attention kernel can do: grouped heads; a window and large heads; a
# window and sinks.
MODELS: Mapping[str, dict[str, object]] = {
    "llama": SIZES | NORM | {"head_dim": 64},
    "gemma3_text": SIZES
    | NORM
    | {"head_dim": 256, "sliding_window": 96, "sliding_window_pattern": 2},
    "gpt_oss": SIZES | NORM | EXPERTS | {"head_dim": 64, "sliding_window": 128},
}
LAYOUTS = (PagedLayout, RaggedLayout)
ROWS, STEPS = (1, 8, 32), 20


def layouts() -> Iterator[str]:
    """Lines of the report.

    Takes seconds; a first time on a GPU, when kernels are compiled, up to a minute.
    """
    is_cpu = mx.default_device() == mx.Device(mx.cpu)
    for family in MODELS:
        for dtype in (mx.float32,) if is_cpu else (mx.float32, mx.bfloat16):
            model = _model(family, dtype)
            in_turn = InTurnLayout(model)
            lengths = probe_lengths(in_turn.open())
            wanted = probe(in_turn, lengths)
            for kind in LAYOUTS:
                layout, proof = prove(kind, model, wanted, lengths)
                yield f"{family} {str(dtype).rpartition('.')[2]} {_said(layout, proof)}"


def _said(layout: Layout | None, proof: Proof) -> str:
    if layout is None:
        return f"{proof.layout}: {proof}"
    steps = ", ".join(f"{rows} rows {_step_seconds(layout, rows) * 1000:.1f} ms" for rows in ROWS)
    return f"{layout.name}: differs by {proof.difference:.1e}; a step of {steps}"


def _model(family: str, dtype: mx.Dtype) -> Module:
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(7)
    model: Module = module.Model(
        module.ModelArgs.from_dict({"model_type": family, **MODELS[family]})
    )
    # so that logits depend visibly on every position
    model.apply(lambda array: array * 3 if array.ndim > 1 else array)
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    return model


def _step_seconds(layout: Layout, rows: int) -> float:
    """Median of some decoding steps."""
    caches = [layout.open() for _ in range(rows)]
    tokens, seconds = mx.ones(rows, mx.int32), []
    for _ in range(STEPS):
        started = time.perf_counter()
        mx.eval(layout.forward(tokens, [RowSpan(row, 1, wants_logits=True) for row in caches]))
        seconds.append(time.perf_counter() - started)
    for row in caches:
        layout.close(row)
    return sorted(seconds)[STEPS // 2]
