"""Chunks in which a text is embedded, and tokens of another tokenizer told from a text that was only cut somewhere."""

import pytest

from semantic_trio.domain.embedding import CHUNK_SECONDS, FIRST_TOKENS, LEAST_TOKENS, MOST_TOKENS, is_foreign, next_chunk_tokens

OWN = tuple(range(100))


@pytest.mark.parametrize(
    "given",
    [(), OWN, OWN[:1], OWN[1:], OWN[:-1], (7, 7, 7, *OWN[4:]), (*OWN[:-4], 7, 7, 7, 7), (*OWN[:50], 7, 7, 7, 7, *OWN[54:])],
    ids=["nothing", "equal", "one", "without its beginning", "shorter", "other beginning", "other end", "other middle"],
)
def test_a_text_that_differs_at_one_place_is_the_models_own(given: tuple[int, ...]) -> None:
    assert not is_foreign(given, OWN)


@pytest.mark.parametrize("given", [(7,) * 5, (OWN[0], *(7 for _ in OWN), OWN[-1]), (7, 7, *OWN[2:-2], 7, 7)])
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
def test_a_chunk_that_took_too_long_is_followed_by_smaller_ones(tokens: int, seconds: float, following: int) -> None:
    """A step beside a text of 60,000 tokens waited for up to 3.8 s: what a chunk costs grows with all that is read before it."""
    assert next_chunk_tokens(tokens, seconds) == following


def test_chunks_of_a_text_that_gets_dearer_stay_short() -> None:
    read, tokens, late = 0, FIRST_TOKENS, []
    while read < 60_000:
        seconds = tokens * (1e-5 + 1e-7 * read)
        late.append(seconds > CHUNK_SECONDS)
        read, tokens = read + tokens, next_chunk_tokens(tokens, seconds)

    assert tokens == LEAST_TOKENS * 2
    assert sum(late) < 10
