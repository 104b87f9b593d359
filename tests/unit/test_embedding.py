"""Tokens of another tokenizer are told from a text that was only cut somewhere."""

import pytest

from semantic_trio.domain.embedding import is_foreign

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
