"""The bound by which a text is refused before it is tokenised."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel

from semantic_trio.adapters.text.alphabet import longest_token_bytes
from tests.contract.test_codec import FAKE, codec_of

TEXTS = [
    "a",
    " " * 5_000,
    "\n" + " " * 5_000,
    "-" * 5_000,
    "日本語" * 500,
    "🦊" * 500,
    "hello world " * 500,
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:4]))
@pytest.mark.parametrize("name", [FAKE, "smollm2-135m", "tiny-random"])
def test_no_token_stands_for_more_bytes_than_the_longest(name: str, text: str) -> None:
    codec = codec_of(name)

    assert codec.longest_token_bytes > 0
    assert len(codec.encode_text(text)) * codec.longest_token_bytes >= len(text.encode())


def test_a_vocabulary_that_does_not_know_every_byte_has_no_longest_token() -> None:
    """Its token for unknown text may stand for a whole word, or for more."""
    assert (
        longest_token_bytes(Tokenizer(WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))) == 0
    )


def test_a_vocabulary_with_all_bytes_beside_its_pieces_has_a_longest_token() -> None:
    pieces = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁hello": 256}

    assert longest_token_bytes(Tokenizer(BPE(pieces, [], byte_fallback=True))) == len(
        "▁hello".encode()
    )
