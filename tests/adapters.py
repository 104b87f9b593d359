"""Adapters of tiny random models, as mlx-lm's training writes them."""

import json
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

ATTENTION = ["self_attn.q_proj", "self_attn.v_proj"]


def write_adapter(
    path: Path,
    model: Module,
    seed: int,
    *,
    rank: int = 4,
    keys: list[str] | None = None,
    kind: str = "lora",
    layers: int = 16,
) -> Path:
    """Write an adapter of a model, random but for its shapes, and large enough to be seen.

    The model is changed. On the device's thread.
    """
    parameters: dict[str, object] = {"rank": rank, "scale": 2.0, "dropout": 0.5} | (
        {"keys": keys} if keys is not None else {}
    )
    linear_to_lora_layers(model, layers, parameters, use_dora=kind == "dora")
    found = cast(list[tuple[str, mx.array]], tree_flatten(cast(Any, model).parameters()))
    mx.random.seed(seed)
    weights = {
        name: 0.3 * mx.random.normal(array.shape)
        for name, array in found
        if name.endswith(("lora_a", "lora_b"))
    }
    weights |= {name: array for name, array in found if name.endswith(".m")}
    path.mkdir(parents=True)
    mx.save_safetensors(str(path / "adapters.safetensors"), weights)
    config = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": parameters}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path
