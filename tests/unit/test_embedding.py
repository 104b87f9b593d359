"""Chunks in which a text is embedded, and tokens of another tokenizer told from a text that was
only cut somewhere.
"""

import pytest

from semantic_trio.domain.embedding import (
    CHUNK_SECONDS,
    FIRST_TOKENS,
    LEAST_FILLED,
    LEAST_TOKENS,
    MEMORY_SHARE,
    MOST_TEXTS,
    MOST_TOKENS,
    batches,
    first_chunk_tokens,
    is_foreign,
    most_texts,
    next_chunk_tokens,
)

OWN = tuple(range(100))


@pytest.mark.parametrize(
    "given",
    [
        (),
        OWN,
        OWN[:1],
        OWN[1:],
        OWN[:-1],
        (7, 7, 7, *OWN[4:]),
        (*OWN[:-4], 7, 7, 7, 7),
        (*OWN[:50], 7, 7, 7, 7, *OWN[54:]),
    ],
    ids=[
        "nothing",
        "equal",
        "one",
        "without its beginning",
        "shorter",
        "other beginning",
        "other end",
        "other middle",
    ],
)
def test_a_text_that_differs_at_one_place_is_the_models_own(given: tuple[int, ...]) -> None:
    assert not is_foreign(given, OWN)


@pytest.mark.parametrize(
    "given", [(7,) * 5, (OWN[0], *(7 for _ in OWN), OWN[-1]), (7, 7, *OWN[2:-2], 7, 7)]
)
def test_a_text_that_differs_all_over_is_foreign(given: tuple[int, ...]) -> None:
    assert is_foreign(given, OWN)


@pytest.mark.parametrize(
    ("tokens", "seconds", "following"),
    [
        (64, 0.001, 128),
        (256, 0.001, MOST_TOKENS),
        (128, 0.05, 128),
        (128, CHUNK_SECONDS, 128),
        (128, 0.11, 64),
        (128, 3.8, 64),
        (LEAST_TOKENS, 3.8, LEAST_TOKENS),
    ],
)
def test_a_chunk_that_took_too_long_is_followed_by_smaller_ones(
    tokens: int, seconds: float, following: int
) -> None:
    """A step beside a text of 60,000 tokens waited for up to 3.8 s: what a chunk costs grows with
    all that is read before it.
    """
    assert next_chunk_tokens(tokens, seconds) == following


def test_chunks_of_a_text_that_gets_dearer_stay_short() -> None:
    read, tokens, late = 0, FIRST_TOKENS, []
    while read < 60_000:
        seconds = tokens * (1e-5 + 1e-7 * read)
        late.append(seconds > CHUNK_SECONDS)
        read, tokens = read + tokens, next_chunk_tokens(tokens, seconds)

    assert tokens == LEAST_TOKENS * 2
    assert sum(late) < 10


@pytest.mark.parametrize("texts", [1, 3, MOST_TEXTS])
def test_a_first_chunk_and_a_smallest_one_are_as_large_for_many_texts_as_for_one(
    texts: int,
) -> None:
    assert first_chunk_tokens(texts) * texts <= FIRST_TOKENS
    assert next_chunk_tokens(1, 1.0, texts) * texts <= max(LEAST_TOKENS, texts)


@pytest.mark.parametrize(
    "lengths", [[], [5], [512] * 40, list(range(1, 100)), [1000, 1, 900, 2, 500]]
)
def test_batches_hold_every_text_once_and_texts_of_similar_lengths_together(
    lengths: list[int],
) -> None:
    found = batches(lengths)

    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) <= MOST_TEXTS
        assert min(lengths[place] for place in batch) >= LEAST_FILLED * max(
            lengths[place] for place in batch
        )


def test_sixteen_texts_are_one_batch() -> None:
    assert batches([512] * 16) == [list(range(16))]


@pytest.mark.parametrize(
    ("text_bytes", "free_bytes", "texts"),
    [
        (1000, None, MOST_TEXTS),
        (0, 10, MOST_TEXTS),
        (1000, 10**9, MOST_TEXTS),
        (1000, round(5500 / MEMORY_SHARE), 5),
        (1000, 0, 1),
    ],
)
def test_fewer_texts_are_read_together_where_memory_is_short(
    text_bytes: int, free_bytes: int | None, texts: int
) -> None:
    assert most_texts(text_bytes, free_bytes) == texts
