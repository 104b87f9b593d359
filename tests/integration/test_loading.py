"""Model directories onto the device: every way of quantising them, and every way of breaking
them.
"""

import functools
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from semantic_trio.adapters.mlx import loading, runner
from semantic_trio.adapters.mlx.loading import (
    LoadedModel,
    Loading,
    context_length,
    eos_token_ids,
    load,
)
from semantic_trio.domain.errors import ModelNotFoundError
from tests.device import on_device, shared_device
from tests.integration.generation import distance, greedy, logits, spread

import mlx.core as mx  # isort: skip
from mlx.nn.layers.base import Module
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_flatten
from mlx_lm.models import gpt_oss, qwen3
from mlx_lm.utils import load_model

on_cpu = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="elsewhere models run as published"
)
BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
}
SHAPES: dict[str, dict[str, object]] = {
    "qwen3": BASE
    | {
        "intermediate_size": 96,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    },
    "gpt_oss": BASE
    | {
        "intermediate_size": 96,
        "rms_norm_eps": 1e-5,
        "sliding_window": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_theta": 1e4,
    },
}
TEXT = [1, 5, 9, 200, 33, 7, 7, 301]


def parameters(model: Module) -> dict[str, mx.array]:
    return dict(cast(Any, tree_flatten)(cast(Any, model).parameters()))


def write_quantised(directory: Path, family: str, mode: str, bits: int) -> None:
    """A random model in half precision, its matrices quantised."""
    module = {"qwen3": qwen3, "gpt_oss": gpt_oss}[family]
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict({"model_type": family, **SHAPES[family]}))
    model.set_dtype(mx.bfloat16)
    quantize(
        model,
        32,
        bits,
        mode=mode,
        class_predicate=lambda path, part: hasattr(part, "to_quantized") and "embed" not in path,
    )
    mx.save_safetensors(str(directory / "model.safetensors"), parameters(model))
    quantization = {"group_size": 32, "bits": bits, "mode": mode}
    (directory / "config.json").write_text(
        json.dumps({"model_type": family, **SHAPES[family], "quantization": quantization})
    )


def test_a_model_is_told_from_its_other_quantisations(tmp_path: Path) -> None:
    (tmp_path / "four").mkdir()
    (tmp_path / "eight").mkdir()
    on_device(lambda: write_quantised(tmp_path / "four", "qwen3", "affine", 4))
    on_device(lambda: write_quantised(tmp_path / "eight", "qwen3", "affine", 8))
    four, again, eight = [
        on_device(functools.partial(load, tmp_path / name)).fingerprint
        for name in ("four", "four", "eight")
    ]

    assert four == again != eight


def test_a_model_is_told_from_itself_with_other_bits_of_keys_and_values(tmp_path: Path) -> None:
    """So what was written to disk with other bits is never read."""
    on_device(lambda: write_quantised(tmp_path, "qwen3", "affine", 4))
    as_ever, sixteen, eight, four = [
        on_device(functools.partial(load, tmp_path, *bits)).fingerprint
        for bits in ((), (16,), (8,), (4,))
    ]

    assert as_ever == sixteen
    assert len({sixteen, eight, four}) == 3


def test_a_model_is_told_from_itself_with_blocks_of_other_sizes(tmp_path: Path) -> None:
    """So what was written to disk in blocks of another size is never read."""
    on_device(lambda: write_quantised(tmp_path, "qwen3", "affine", 4))
    forms = ((), (16, 256), (16, 64), (16, 1024), (8, 256), (8, 64))
    as_ever, *others = [
        on_device(functools.partial(load, tmp_path, *form)).fingerprint for form in forms
    ]

    assert as_ever == others[0]
    assert len(set(others)) == 5


@on_cpu
@pytest.mark.parametrize(
    ("family", "mode", "bits"),
    [("qwen3", "affine", 4), ("qwen3", "mxfp4", 4), ("qwen3", "mxfp8", 8), ("gpt_oss", "mxfp4", 4)],
)
def test_on_a_cpu_every_kind_of_quantised_model_becomes_float32_and_computes_the_same(
    family: str, mode: str, bits: int, tmp_path: Path
) -> None:
    on_device(lambda: write_quantised(tmp_path, family, mode, bits))
    loaded = on_device(lambda: load(tmp_path))
    published, _ = on_device(lambda: load_model(tmp_path))

    assert loaded.dtype == mx.float32
    assert loaded.weight_bytes == 4 * sum(array.size for array in parameters(loaded.model).values())
    ours, theirs = logits(loaded.model, TEXT), logits(published, TEXT)
    assert distance(ours, theirs) < 0.03 * spread(theirs)


@on_cpu
@pytest.mark.parametrize(
    ("room", "said", "dtype"),
    [(2.5, "they stay quantised", mx.float32), (1.3, "running as published", mx.bfloat16)],
)
def test_where_float32_does_not_fit_the_model_stays_quantised_and_says_so(
    room: float, said: str, dtype: mx.Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device(lambda: write_quantised(tmp_path, "qwen3", "affine", 4))
    published = (tmp_path / "model.safetensors").stat().st_size
    monkeypatch.setattr(loading, "available_bytes", lambda: int(published * room))

    loaded = on_device(lambda: load(tmp_path))

    assert said in loaded.notice
    assert loaded.weight_bytes < published * room
    assert loaded.dtype == dtype


@on_cpu
def test_a_model_that_does_not_fit_at_all_is_refused_before_it_is_read(
    tiny_random_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "available_bytes", lambda: 2**20)

    with pytest.raises(ModelNotFoundError, match=r"GiB of memory"):
        on_device(lambda: load(tiny_random_path))


def test_loading_leaves_nothing_of_the_weights_that_layers_begin_with(tmp_path: Path) -> None:
    """Their keys would refer to each other, of all models that a process has ever loaded."""
    on_device(lambda: write_quantised(tmp_path, "qwen3", "affine", 4))

    on_device(lambda: load(tmp_path))

    graph, keys = io.StringIO(), cast(list[mx.array], mx.random.state)
    on_device(lambda: mx.export_to_dot(graph, keys[0]))
    assert "RandomBits" not in graph.getvalue()


def test_the_tiny_random_model_has_much_to_say(tiny_random_path: Path) -> None:
    loaded = on_device(lambda: load(tiny_random_path))

    said = greedy(loaded.model, [1, 4093, 198], 60)

    assert (loaded.context_length, loaded.vocab_size, loaded.notice) == (131_072, 49_152, "")
    assert len(set(said)) > 40


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", '{"model_type": "nosuch"}', "nosuch not supported"),
        ("config.json", "{}", "config.json has no 'model_type'"),
        ("config.json", "{", "cannot be loaded"),
        ("config.json", '{"model_type": "llama"}', "missing"),
        ("model.safetensors", "", "cannot be loaded"),
        ("model.safetensors", None, "No safetensors"),
    ],
)
def test_a_broken_directory_is_a_model_that_cannot_be_served(
    file: str, content: str | None, said: str, tiny_random_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_random_path, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)

    with pytest.raises(ModelNotFoundError, match=said):
        on_device(lambda: load(tmp_path))


def test_weights_that_are_cut_short_are_a_model_that_cannot_be_served(
    tiny_random_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_random_path, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(6_000_000)

    with pytest.raises(ModelNotFoundError, match="incomplete download"):
        on_device(lambda: load(tmp_path))


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        # Qwen 2.5: stretched by YaRN beyond what it states.
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        # Llama 3.1 and GPT-OSS state the stretched length.
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        # Gemma 3 states it too, and says nothing of the original.
        (
            {
                "text_config": {
                    "max_position_embeddings": 131072,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                }
            },
            131072,
        ),
        ({"n_positions": 1024}, 1024),
        ({}, 32768),
    ],
)
def test_the_context_is_what_the_configuration_means(
    config: Mapping[str, object], tokens: int
) -> None:
    assert context_length(config) == tokens


@pytest.mark.parametrize(
    ("config", "ids"),
    [
        ({"eos_token_id": 2}, {2}),
        ({"eos_token_id": [1, 106]}, {1, 106}),
        ({"text_config": {"eos_token_id": 7}}, {7}),
        ({}, set()),
    ],
)
def test_the_ids_that_end_a_text_may_be_one_or_several_or_nested(
    config: Mapping[str, object], ids: set[int]
) -> None:
    assert eos_token_ids(config) == ids


async def test_a_model_that_loads_and_cannot_compute_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(Module):
        layers = ()

        def __call__(self, *_: object, **__: object) -> mx.array:
            raise NotImplementedError("no such kernel\non this device")

    loaded = LoadedModel(Broken(), {}, 4096, 300, frozenset(), mx.float32, 0, "")
    monkeypatch.setattr(Loading, "__attrs_post_init__", lambda _: None)
    monkeypatch.setattr(Loading, "advance", lambda _: False)
    monkeypatch.setattr(Loading, "finish", lambda _: loaded)

    with pytest.raises(ModelNotFoundError) as refused:
        await runner.load_runner(shared_device(), Path("/models/broken"))

    assert str(refused.value) == (
        "model: /models/broken (mlx-lm loads it, but cannot compute it: NotImplementedError: "
        "no such kernel)"
    )


async def test_the_log_tells_how_far_the_weights_of_a_large_model_are(
    tiny_random_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with structlog.testing.capture_logs() as small:
        await runner.load_runner(shared_device(), tiny_random_path)
    monkeypatch.setattr(loading, "PIECE_BYTES", 1)
    with structlog.testing.capture_logs() as large:
        _, loaded = await runner.load_runner(shared_device(), tiny_random_path)

    lines = [line for line in large if line["event"] == "loading weights"]
    parts = [line["bytes"] / loaded.weight_bytes for line in lines]
    assert {line["of"] for line in lines} == {loaded.weight_bytes}
    assert parts == sorted(parts)
    assert [int(4 * part) for part in parts] == sorted({int(4 * part) for part in parts} - {0, 4})
    assert parts
    assert not [line for line in small if line["event"] == "loading weights"]


def test_an_architecture_that_would_end_the_process_is_refused(tmp_path: Path) -> None:
    """mlx-lm's olmo exits where a package of its own is missing."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmo"}))
    (tmp_path / "model.safetensors").touch()

    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        on_device(lambda: load(tmp_path))
