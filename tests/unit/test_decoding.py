"""Tokens to text one by one: the same text as all at once, without half characters, and soon."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from semantic_trio.adapters.text.decoding import MOST_HELD, IncrementalDecoder
from tests.vocabulary import END, START, byte_tokenizer, fallback_tokenizer

BYTES = byte_tokenizer()
FALLBACK = fallback_tokenizer()
SPECIAL = frozenset({START, END})


def pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[str]:
    decoder = IncrementalDecoder(
        tokenizer, SPECIAL if tokenizer is BYTES else frozenset(), tokenizer.get_vocab_size()
    )
    return [*(decoder.push(token) for token in tokens), decoder.flush()]


@given(
    st.lists(
        st.one_of(st.integers(0, END + 20), st.sampled_from(BYTES.encode("é日👩").ids)),
        max_size=100,
    )
)
def test_the_pieces_of_any_tokens_join_to_what_all_at_once_give(tokens: list[int]) -> None:
    """Any bytes: broken characters, special tokens between the halves of one, ids the tokenizer
    does not know.
    """
    assert "".join(pieces(BYTES, tokens)) == BYTES.decode(tokens, skip_special_tokens=True)


@given(st.text(max_size=60))
def test_a_piece_never_ends_within_a_character(text: str) -> None:
    said = pieces(BYTES, BYTES.encode(text).ids)

    assert "".join(said) == text
    assert text.count("\ufffd") == "".join(said).count("\ufffd")


def test_a_character_arrives_with_its_last_byte() -> None:
    assert pieces(BYTES, BYTES.encode("a👩b").ids) == ["a", "", "", "", "👩", "b", ""]


def test_half_a_character_at_the_end_becomes_a_replacement() -> None:
    assert pieces(BYTES, BYTES.encode("a👩").ids[:-1])[-1] == "\ufffd"


@pytest.mark.parametrize("tokenizer", [BYTES, FALLBACK], ids=["byte level", "byte fallback"])
def test_text_that_stays_broken_is_shown_all_the_same(tokenizer: Tokenizer) -> None:
    """The library's stream would show nothing before the end, and look at everything again with
    every token.
    """
    said = pieces(tokenizer, tokenizer.encode("é").ids[:1] * 1000)

    assert "".join(said) == "\ufffd" * 1000
    assert max(len(piece) for piece in said) <= MOST_HELD


@pytest.mark.parametrize("broken", range(MOST_HELD - 4, MOST_HELD + 2))
def test_a_whole_character_after_many_broken_ones_is_whole(broken: int) -> None:
    first, *rest = BYTES.encode("👩a").ids

    assert "".join(pieces(BYTES, [first] * (broken + 1) + rest)) == "\ufffd" * broken + "👩a"


def test_words_after_a_character_that_went_wrong_keep_their_spaces() -> None:
    """The byte after `A` makes both of them a broken character, when `A` has been shown; the
    library's stream fails from there on.
    """
    a, b, half = (FALLBACK.get_vocab()[token] for token in ("<0x41>", "▁b", "<0xE6>"))

    assert "".join(pieces(FALLBACK, [a, half, b, b])).startswith("A")
    assert "".join(pieces(FALLBACK, [a, half, b, b])).endswith(" b b")


@given(st.text(alphabet="ab é日👩", max_size=40))
def test_words_and_single_bytes_of_a_sentencepiece_vocabulary_keep_their_spaces(text: str) -> None:
    tokens = FALLBACK.encode(text.replace(" ", "▁")).ids

    assert "".join(pieces(FALLBACK, tokens)) == FALLBACK.decode(tokens)


@given(st.lists(st.integers(0, 258), max_size=100))
def test_no_tokens_of_a_sentencepiece_vocabulary_make_it_fail(tokens: list[int]) -> None:
    """A byte can turn the ones before it, shown already, into a broken character: that is a fault
    of the library's stream.
    """
    pieces(FALLBACK, tokens)
