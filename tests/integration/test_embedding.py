"""Vectors of a real model tell what texts are about."""

from typing import cast

from semantic_trio.adapters.mlx.embedding import TextsReading, embedding_size
from semantic_trio.adapters.mlx.loading import LoadedModel
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.domain.embedding import Pooling, is_foreign
from tests.device import on_device

import mlx.core as mx  # isort: skip

SEA = ("The ship sailed across the stormy ocean.", "A boat crossed the rough sea.")
OTHER = "The court rejected the company's tax appeal."


def vector(
    loaded: LoadedModel, codec: TokenizerCodec, text: str, pooling: Pooling = Pooling.MEAN
) -> tuple[float, ...]:
    def read() -> tuple[float, ...]:
        reading = TextsReading(loaded.model, [codec.encode_text(text)])
        reading.read(512)
        return reading.vectors(pooling)[0]

    return on_device(read)


def alike(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_texts_of_one_thing_are_closer_than_others(
    smollm2: LoadedModel, smollm2_codec: TokenizerCodec
) -> None:
    ship, boat, court = (vector(smollm2, smollm2_codec, text) for text in (*SEA, OTHER))
    assert alike(ship, boat) > max(alike(ship, court), alike(boat, court))


def test_the_mean_is_that_of_what_the_body_makes_of_all_tokens(
    smollm2: LoadedModel, smollm2_codec: TokenizerCodec
) -> None:
    def mean() -> list[float]:
        hidden = smollm2.model.model(mx.array([smollm2_codec.encode_text(OTHER)]))[0].mean(axis=0)
        return cast(list[float], (hidden / mx.linalg.norm(hidden)).tolist())

    expected = on_device(mean)

    assert on_device(lambda: embedding_size(smollm2.model)) == len(expected) == 576
    assert alike(vector(smollm2, smollm2_codec, OTHER), tuple(expected)) > 0.99999
    assert alike(vector(smollm2, smollm2_codec, OTHER, Pooling.LAST), tuple(expected)) < 0.999


def test_tokens_of_another_vocabulary_are_told_from_its_own(smollm2_codec: TokenizerCodec) -> None:
    """Ids are given by rank in every vocabulary of this kind: a word of ours has a neighbouring
    word's id elsewhere.
    """
    own = smollm2_codec.encode_text(" ".join((*SEA, OTHER)) * 3)
    foreign = tuple(token + token // 50 + 3 for token in own)

    assert not is_foreign(own, smollm2_codec.encode_text(smollm2_codec.decode(own)))
    assert is_foreign(foreign, smollm2_codec.encode_text(smollm2_codec.decode(foreign)))
