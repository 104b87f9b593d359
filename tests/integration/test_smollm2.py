"""The embedded default model after its conversion: it speaks English, and nothing was lost on the
way.
"""

import json
from pathlib import Path
from typing import cast

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from semantic_trio.adapters.mlx.loading import LoadedModel
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from tests.device import on_device
from tests.integration.generation import distance, greedy, logits, spread

import mlx.core as mx  # isort: skip
from mlx.nn.layers.base import Module
from mlx_lm.utils import dequantize_model, load_model

CAPITAL = Conversation((Message(Role.USER, (Text("What is the capital of France?"),)),))
# Short: quantised products take a second for eight tokens on a CPU, in half precision much more.
PASSAGE = "The capital of France is Paris"


def test_it_answers_a_question_in_english(
    smollm2: LoadedModel, smollm2_codec: TokenizerCodec
) -> None:
    answer = greedy(
        smollm2.model, smollm2_codec.encode_prompt(CAPITAL).tokens, 40, smollm2_codec.stop_tokens
    )
    decoder = smollm2_codec.decoder()

    assert "".join(map(decoder.push, answer)) + decoder.flush() == "The capital of France is Paris."


def test_float32_weights_compute_what_the_quantised_ones_do(
    smollm2: LoadedModel, smollm2_path: Path, smollm2_codec: TokenizerCodec
) -> None:
    if smollm2.dtype != mx.float32:
        pytest.skip("this device runs the model as published")
    tokens = smollm2_codec.encode_text(PASSAGE)
    exact = logits(quantised(smollm2_path), tokens)

    assert distance(logits(smollm2.model, tokens), exact) < 1e-4 * spread(exact)


def test_weights_in_the_wrong_order_would_be_noticed(
    smollm2: LoadedModel, smollm2_path: Path, smollm2_codec: TokenizerCodec
) -> None:
    """The sabotage of the two claims above: query rows left as llama.cpp orders them."""
    broken = quantised(smollm2_path)
    tokens = smollm2_codec.encode_text(PASSAGE)

    def permute() -> None:
        for layer in broken.model.layers:
            weight = layer.self_attn.q_proj.weight
            layer.self_attn.q_proj.weight = (
                weight.reshape(9, 2, 32, -1).swapaxes(1, 2).reshape(weight.shape)
            )

    on_device(permute)

    assert distance(logits(smollm2.model, tokens), logits(broken, tokens)) > 0.1 * spread(
        logits(smollm2.model, tokens)
    )


def test_what_is_known_of_it_is_what_was_published(
    smollm2: LoadedModel, smollm2_codec: TokenizerCodec
) -> None:
    assert (smollm2.context_length, smollm2.vocab_size) == (8192, 49152)
    assert smollm2.eos_token_ids == smollm2_codec.stop_tokens == {2}


def test_half_precision_is_enough_for_it(
    smollm2: LoadedModel, smollm2_path: Path, smollm2_codec: TokenizerCodec
) -> None:
    """On a GPU it computes in float16, whose largest number is 65,504.

    (Dense: a CPU takes seconds for a token of the quantised form).
    """
    tokens = smollm2_codec.encode_text(PASSAGE)
    half = on_device(lambda: dequantize_model(load_model(smollm2_path)[0]))
    told, exact = logits(half, tokens), logits(smollm2.model, tokens)

    assert on_device(lambda: half(mx.array([[1]])).dtype) == mx.float16
    assert on_device(lambda: bool(mx.isfinite(told).all().item()))
    assert distance(told, exact) < 0.05 * spread(exact)


def quantised(path: Path) -> Module:
    """The model with its weights as they were published, computing in float32."""
    model = cast(Module, on_device(lambda: load_model(path))[0])
    on_device(lambda: model.set_dtype(mx.float32))
    return model


# llama.cpp's splits for this vocabulary (its pre-tokenizer `smollm`): each in turn, on what the one
# before left.
SPLITS = (r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module")
def reference(smollm2_path: Path) -> "ReferenceBPE":
    return ReferenceBPE(smollm2_path / "tokenizer.json")


@pytest.fixture(scope="module")
def vocabulary(smollm2_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(smollm2_path / "tokenizer.json"))


class ReferenceBPE:
    """Byte pair encoding as its paper has it, slowly: split, then merge the strongest pair until
    none is left.
    """

    def __init__(self, file: Path) -> None:
        model = json.loads(file.read_text())["model"]
        self.ids: dict[str, int] = model["vocab"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        self.letters = dict(zip(_printable_bytes(), map(chr, _printable_letters()), strict=True))

    def encode(self, text: str) -> list[int]:
        words = [text]
        for split in SPLITS:
            words = [part for word in words for part in regex.splititer(f"({split})", word) if part]
        return [
            self.ids[token]
            for word in words
            for token in self._merged([self.letters[byte] for byte in word.encode()])
        ]

    def knows(self, text: str) -> bool:
        """Whether every byte is a token: a few control characters are none.

        Both drop those, llama.cpp after merging, the library before.
        """
        return all(self.letters[byte] in self.ids for byte in text.encode())

    def _merged(self, word: list[str]) -> list[str]:
        while True:
            pairs = [
                (self.ranks[pair], at)
                for at, pair in enumerate(zip(word, word[1:], strict=False))
                if pair in self.ranks
            ]
            if not pairs:
                return word
            _, at = min(pairs)
            word = [*word[:at], word[at] + word[at + 1], *word[at + 2 :]]


def _visible() -> list[int]:
    return [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]


def _printable_bytes() -> list[int]:
    return _visible() + [byte for byte in range(256) if byte not in _visible()]


def _printable_letters() -> list[int]:
    return _visible() + list(range(256, 256 + 256 - len(_visible())))


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.text(alphabet="ab 12'stré\n\t½Ⅷ…-_", max_size=60)))
def test_text_is_split_and_merged_as_llama_cpp_does(
    text: str, reference: ReferenceBPE, smollm2_codec: TokenizerCodec
) -> None:
    assume(reference.knows(text) and "<|" not in text)

    assert list(smollm2_codec.encode_text(text)) == reference.encode(text)


@pytest.mark.parametrize(
    "text",
    [
        "1889",
        "  two  spaces",
        "don't we'll",
        "tabs\t\tand\n\n\nlines \n",
        "naïve 日本語 👩‍👧",
        "a_b->c(d);",
        "½ Ⅷ",
    ],
)
def test_chosen_texts_are_split_as_llama_cpp_does_and_come_back_whole(
    text: str, reference: ReferenceBPE, smollm2_codec: TokenizerCodec
) -> None:
    tokens = smollm2_codec.encode_text(text)
    decoder = smollm2_codec.decoder()

    assert list(tokens) == reference.encode(text)
    assert "".join(map(decoder.push, tokens)) + decoder.flush() == text


def test_the_tokens_that_steer_are_one_token_each_and_no_text(
    smollm2_codec: TokenizerCodec, vocabulary: Tokenizer
) -> None:
    assert smollm2_codec.encode_text("<|im_start|>user<|im_end|>") == (1, 4093, 2)
    assert vocabulary.decode(list(range(17)), skip_special_tokens=True) == ""
    assert vocabulary.get_vocab_size() == 49152


@settings(max_examples=300, deadline=None)
@given(tokens=st.lists(st.one_of(st.integers(0, 49_200), st.integers(17, 300)), max_size=80))
def test_any_of_its_tokens_read_one_by_one_are_the_text_they_are_at_once(
    tokens: list[int], smollm2_codec: TokenizerCodec, vocabulary: Tokenizer
) -> None:
    whole = vocabulary.decode(tokens, skip_special_tokens=True)
    decoder = smollm2_codec.decoder()

    assert "".join(map(decoder.push, tokens)) + decoder.flush() == whole
