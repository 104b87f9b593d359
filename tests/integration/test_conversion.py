"""From GGUF to MLX: the same model, by other names. (`test_smollm2` has the real one)."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from semantic_trio.adapters.catalogue.smollm2 import convert_in_child
from semantic_trio.adapters.mlx.conversion import LAYER_NAMES, OTHER_NAMES, ROTATED, convert
from semantic_trio.adapters.mlx.loading import load
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.errors import ModelNotFoundError
from tests.device import on_device
from tests.integration.generation import distance, logits, spread
from tests.vocabulary import BYTES, CHATML, END, START

import mlx.core as mx  # isort: skip
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models import llama

HEADS, KV_HEADS, HIDDEN = 4, 2, 64
AB = END + 1  # the one token that is made by a merge
SHAPE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
}
NUMBERS = {
    "llama.embedding_length": HIDDEN, "llama.block_count": 2, "llama.feed_forward_length": 96, "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS, "llama.context_length": 512, "llama.vocab_size": AB + 1,
    "tokenizer.ggml.bos_token_id": START, "tokenizer.ggml.eos_token_id": END, (
        "tokenizer.ggml.padding_token_id"
    ): END,
    "tokenizer.ggml.unknown_token_id": END,
}  # fmt: skip
TEXT = [1, 5, 9, 200, 33, 7, 7, 100]


def random_llama() -> Module:
    mx.random.seed(5)
    arguments = {
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "vocab_size": AB + 1,
        "tie_word_embeddings": False,
        **SHAPE,
    }
    model = cast(Module, llama.Model(llama.ModelArgs.from_dict(arguments)))
    model.set_dtype(mx.float16)
    return model


def as_llama_cpp_has_it(model: Module) -> dict[str, mx.array]:
    """The weights under llama.cpp's names, the halves of each query and key head interleaved."""
    names = {ours: theirs for theirs, ours in (LAYER_NAMES | OTHER_NAMES).items()}
    tensors = {}
    for name, array in dict(cast(Any, tree_flatten)(cast(Any, model).parameters())).items():
        front, rest = (
            ("", name)
            if ".layers." not in name
            else (f"blk.{name.split('.')[2]}.", name.split(".", 3)[3])
        )
        theirs = names[rest.removesuffix(".weight")]
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(theirs)
        rows = (
            array
            if heads is None
            else array.reshape(heads, 2, -1, HIDDEN).swapaxes(1, 2).reshape(array.shape)
        )
        tensors[f"{front}{theirs}.weight"] = mx.contiguous(rows)
    return tensors


def write_gguf(file: Path, model: Module, **changes: object) -> None:
    tokens = [*sorted(BYTES, key=BYTES.__getitem__), "<|im_start|>", "<|im_end|>", "ab"]
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        "llama.rope.freq_base": mx.array(1e4),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": mx.array([1] * len(BYTES) + [3, 3, 1], mx.int32),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.chat_template": CHATML,
        **{key: mx.array(number, mx.uint32) for key, number in NUMBERS.items()},
    }
    cast(Any, mx).save_gguf(str(file), as_llama_cpp_has_it(model), metadata | changes)


def test_a_converted_model_computes_what_the_original_does(tmp_path: Path) -> None:
    model = on_device(random_llama)
    on_device(lambda: write_gguf(tmp_path / "model.gguf", model))

    on_device(lambda: convert(tmp_path / "model.gguf", tmp_path))

    loaded = on_device(lambda: load(tmp_path))
    on_device(lambda: model.set_dtype(mx.float32))
    expected = logits(model, TEXT)
    assert distance(logits(loaded.model, TEXT), expected) < 1e-4 * spread(expected)
    assert loaded.context_length == 512
    assert "quantization" not in json.loads((tmp_path / "config.json").read_text())


def test_rows_left_in_llama_cpps_order_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sabotage of the claim above."""
    model = on_device(random_llama)
    on_device(lambda: write_gguf(tmp_path / "model.gguf", model))
    monkeypatch.delitem(ROTATED, "attn_k")

    on_device(lambda: convert(tmp_path / "model.gguf", tmp_path))

    loaded = on_device(lambda: load(tmp_path))
    expected = logits(model, TEXT)
    assert distance(logits(loaded.model, TEXT), expected) > 0.01 * spread(expected)


def test_the_vocabulary_and_the_template_come_along(tmp_path: Path) -> None:
    on_device(lambda: write_gguf(tmp_path / "model.gguf", random_llama()))

    convert_in_child(tmp_path / "model.gguf", tmp_path)

    codec = load_codec(tmp_path)
    assert codec.stop_tokens == {END}
    assert codec.encode_text("<|im_start|>aab<|im_end|>") == (START, BYTES["a"], AB, END)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("general.architecture", "gemma3", "gemma3"), ("tokenizer.ggml.pre", "qwen2", "qwen2")],
)
def test_a_file_that_is_not_understood_is_refused_by_name(
    key: str, value: str, said: str, tmp_path: Path
) -> None:
    on_device(lambda: write_gguf(tmp_path / "model.gguf", random_llama(), **{key: value}))

    with pytest.raises(ModelNotFoundError, match=f"cannot be converted: .*{said}"):
        convert_in_child(tmp_path / "model.gguf", tmp_path)
