"""Converts a Llama model from a GGUF file to an MLX directory: `python -m
semantic_trio.adapters.mlx.conversion GGUF DIRECTORY`.

MLX reads the 4-bit and 8-bit blocks of GGUF as its own, so no weight is computed anew: names
change, and rows of two matrices change places. Run as a process of its own it keeps MLX out of the
one that asks.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import attrs
import mlx.core as mx

from semantic_trio.adapters.mlx.vocabulary import Vocabulary

Metadata = dict[str, mx.array | str | list[str]]
Weights = dict[str, mx.array]

GROUP_SIZE = 32  # weights per scale, in every kind of GGUF block that MLX reads as it is
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
# The matrices whose rows llama.cpp reorders, and where it says how many heads they have.
ROTATED = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
TENSOR = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<name>\w+)\.(?P<part>weight|scales|biases)")


@attrs.frozen
class LlamaShape:
    """Shape of a model, from the metadata of its GGUF file."""

    metadata: Metadata

    def number(self, key: str) -> float:
        """A number of the model's architecture."""
        return self._scalar(f"llama.{key}")

    def token(self, name: str) -> int:
        """The id of a token with a role of its own."""
        return int(self._scalar(f"tokenizer.ggml.{name}_token_id"))

    def _scalar(self, key: str) -> float:
        value = self.metadata[key]
        assert isinstance(value, mx.array), key
        return value.item()  # type: ignore[return-value]

    def config(self, weights: Weights) -> dict[str, object]:
        """The model's config.json, the bits of its matrices as found in the renamed weights."""
        config: dict[str, object] = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": int(self.number("embedding_length")),
            "num_hidden_layers": int(self.number("block_count")),
            "intermediate_size": int(self.number("feed_forward_length")),
            "num_attention_heads": int(self.number("attention.head_count")),
            "num_key_value_heads": int(self.number("attention.head_count_kv")),
            # a float32 in the file
            "rms_norm_eps": round(self.number("attention.layer_norm_rms_epsilon"), 12),
            "rope_theta": self.number("rope.freq_base"),
            "max_position_embeddings": int(self.number("context_length")),
            "vocab_size": int(self.number("vocab_size")),
            "tie_word_embeddings": "lm_head.weight" not in weights,
        }
        ends = {
            f"{name}_token_id": self.token(gguf)
            for name, gguf in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        }
        return config | ends | _quantization(weights)


def convert(gguf: Path, into: Path) -> None:
    """Fill an existing directory with config, weights and tokenizer.

    Raises `ValueError` for a file it does not understand.
    """
    tensors, metadata = cast(tuple[Weights, Metadata], mx.load(str(gguf), return_metadata=True))
    if metadata.get("general.architecture") != "llama":
        raise ValueError(
            f"the architecture is {metadata.get('general.architecture')}, only llama is understood"
        )
    shape = LlamaShape(metadata)
    weights = dict(_renamed(tensors, shape))
    mx.save_safetensors(str(into / "model.safetensors"), weights, {"format": "mlx"})
    _write(into / "config.json", shape.config(weights))
    vocabulary = _vocabulary(shape)
    vocabulary.tokenizer().save(str(into / "tokenizer.json"))
    _write(into / "tokenizer_config.json", vocabulary.config())


def _renamed(tensors: Weights, shape: LlamaShape) -> Iterator[tuple[str, mx.array]]:
    for key, array in tensors.items():
        match = TENSOR.fullmatch(key)
        name = match and (LAYER_NAMES if match["layer"] else OTHER_NAMES).get(match["name"])
        if match is None or name is None:
            raise ValueError(f"the tensor {key} is not one of a Llama model")
        heads = ROTATED.get(match["name"])
        ordered = array if heads is None else _unpermuted(array, int(shape.number(heads)))
        front = f"model.layers.{match['layer']}." if match["layer"] else ""
        yield f"{front}{name}.{match['part']}", _halved(ordered)


def _unpermuted(array: mx.array, heads: int) -> mx.array:
    """Rows of a query or key matrix, (out, any), in the order of the published model: llama.cpp
    pairs the halves of each head for its rotation.
    """
    out = array.shape[0]
    return array.reshape(heads, out // heads // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)


def _halved(array: mx.array) -> mx.array:
    """The norms are stored wider than the scales: left so, every activation of the model would be
    float32 on a GPU.
    """
    return array.astype(mx.float16) if array.dtype == mx.float32 else array


def _quantization(weights: Weights) -> dict[str, object]:
    """The most common width, and the exceptions by name; nothing where no matrix is quantised."""
    bits = {
        name.removesuffix(".scales"): _bits(weights, name)
        for name in weights
        if name.endswith(".scales")
    }
    if not bits:
        return {}
    usual = max(set(bits.values()), key=list(bits.values()).count)
    exceptions = {
        name: {"group_size": GROUP_SIZE, "bits": width}
        for name, width in bits.items()
        if width != usual
    }
    return {"quantization": {"group_size": GROUP_SIZE, "bits": usual, **exceptions}}


def _bits(weights: Weights, scales: str) -> int:
    words = weights[scales.replace(".scales", ".weight")].shape[-1]
    return words * 32 // (weights[scales].shape[-1] * GROUP_SIZE)


def _vocabulary(shape: LlamaShape) -> Vocabulary:
    ggml = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in shape.metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    kinds = ggml["token_type"]
    assert isinstance(kinds, mx.array)
    return Vocabulary(
        kind=f"{ggml['model']}/{ggml['pre']}",
        tokens=tuple(ggml["tokens"]),  # type: ignore[arg-type]
        kinds=tuple(kinds.tolist()),  # type: ignore[arg-type]
        merges=tuple(ggml["merges"]),  # type: ignore[arg-type]
        bos=shape.token("bos"),
        eos=shape.token("eos"),
        pad=shape.token("padding"),
        unknown=shape.token("unknown"),
        context_length=int(shape.number("context_length")),
        chat_template=str(shape.metadata["tokenizer.chat_template"]),
    )


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
