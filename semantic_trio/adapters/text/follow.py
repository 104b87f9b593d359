"""Agreement of tokens with a text, token by token."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# Tokens that a decoder sees first, so that what follows is not the beginning of a text to it.
CONTEXT = 4


class Step(NamedTuple):
    """A place where tokens and text agree: `used` tokens are the text up to `offset`."""

    used: int
    offset: int


def follow(tokenizer: Tokenizer, text: str, tokens: Sequence[int], start: Step) -> Iterator[Step]:
    """The steps from `start` on at which tokens and text agree, one for each character or more that
    is complete.
    """
    stream = (
        DecodeStream(list(tokens[max(0, start.used - CONTEXT) : start.used]))
        if start.used
        else DecodeStream()
    )
    offset = start.offset
    for count in range(start.used, len(tokens)):
        try:
            piece = stream.step(tokenizer, tokens[count])
        except Exception:  # noqa: BLE001 - it has no type of its own: these tokens make no text
            return
        if piece is None:
            continue
        if not text.startswith(piece, offset):
            return
        offset += len(piece)
        yield Step(count + 1, offset)
