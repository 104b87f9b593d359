"""A real model with sliding and global layers: it speaks English, and its geometry is what its
configuration says.
"""

import json
import random
import time
from pathlib import Path

import pytest

from semantic_trio.adapters.mlx.fingerprint import fingerprint
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.loading import LoadedModel, load
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import LayerKind
from tests.device import on_device
from tests.integration.generation import greedy, logits

import mlx.core as mx  # isort: skip
from mlx.nn.layers.base import Module

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.timeout(1200),  # the first time it is fetched and converted: half a minute
]
SENTENCE = (
    "The old man walked slowly down the road to the village, where his daughter was waiting for "
    "him with bread and tea."
)
# Above it a model has no idea of English; the real one is near 3 nats a token.
PLAUSIBLE_NATS = 4.0


def nats(model: Module, tokens: tuple[int, ...]) -> float:
    """What the model did not expect of each token after the first, on average."""
    seen = logits(model, tokens)

    def surprise() -> float:
        told = seen[:-1] - mx.logsumexp(seen[:-1], axis=-1, keepdims=True)
        return -float(
            mx.take_along_axis(told, mx.array(tokens[1:])[:, None], axis=-1).mean().item()
        )

    return on_device(surprise)


def test_it_goes_on_with_a_text_in_english(
    gemma3: LoadedModel, gemma3_codec: TokenizerCodec
) -> None:
    decoder = gemma3_codec.decoder()
    answer = greedy(
        gemma3.model,
        gemma3_codec.encode_text("Paris is the capital of"),
        8,
        gemma3_codec.stop_tokens,
    )

    assert "France" in "".join(map(decoder.push, answer)) + decoder.flush()


def test_it_expects_a_sentence_and_not_its_words_in_disorder(
    gemma3: LoadedModel, gemma3_codec: TokenizerCodec
) -> None:
    beginning, *words = gemma3_codec.encode_text(SENTENCE)
    disorder = random.Random(5).sample(words, len(words))

    plausible, absurd = (
        nats(gemma3.model, (beginning, *words)),
        nats(gemma3.model, (beginning, *disorder)),
    )

    assert plausible < PLAUSIBLE_NATS < absurd - 2


def test_norms_as_llama_cpp_stores_them_would_be_noticed(
    gemma3_path: Path, gemma3_codec: TokenizerCodec
) -> None:
    """The sabotage of the claim above, and of every other about this model's text."""
    broken = on_device(lambda: load(gemma3_path)).model

    def shift() -> None:
        for layer in broken.layers:
            layer.post_attention_layernorm.weight = layer.post_attention_layernorm.weight + 1

    on_device(shift)

    assert nats(broken, gemma3_codec.encode_text(SENTENCE)) > PLAUSIBLE_NATS


def test_its_tokens_give_back_every_text(gemma3_codec: TokenizerCodec) -> None:
    text = (
        "Hello, world!\n\n  It's 2024: \u00fcber na\u00efve \u6f22\u5b57 \U0001f389\tx \u1e9e "
        "\u0007"
    )
    decoder = gemma3_codec.decoder()

    assert "".join(map(decoder.push, gemma3_codec.encode_text(text))) + decoder.flush() == text


def test_its_geometry_is_what_its_configuration_says(gemma3: LoadedModel) -> None:
    """Every sixth of 18 layers sees all, the others 512 tokens; one head of 256, keys and
    values.
    """
    bits = gemma3.dtype.size * 8
    measured = on_device(lambda: measure_spec(gemma3.model, gemma3.fingerprint))
    shape = {
        group.kind: (group.layers, group.window, group.token_bytes) for group in measured.groups
    }

    assert measured == published_spec(gemma3.config, gemma3.fingerprint, element_bits=bits)
    assert shape == {
        LayerKind.SLIDING: (15, 512, 15 * 512 * bits // 8),
        LayerKind.GLOBAL: (3, 0, 3 * 512 * bits // 8),
    }


def test_its_fingerprint_is_taken_in_no_time(gemma3: LoadedModel, gemma3_path: Path) -> None:
    """5 ms for 540 MB; the bound is for a busy machine."""

    def taken() -> tuple[float, str]:
        started = time.perf_counter()
        found = fingerprint(gemma3_path, f"{gemma3.dtype} in {gemma3.weight_bytes} bytes")
        return time.perf_counter() - started, found

    fastest, found = min(taken() for _ in range(5))

    assert found == gemma3.fingerprint
    assert fastest < 0.2


def test_nothing_but_the_model_is_kept(gemma3_path: Path) -> None:
    kept = {file.name for file in gemma3_path.iterdir()}

    assert kept == {
        ".recipe",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((gemma3_path / "config.json").read_text())["model_type"] == "gemma3_text"
