"""Embeddings: a text as one vector.

Knows how the vectors of tokens become one, and which tokens cannot be the model's own. Knows no arrays.
"""

import enum
from collections.abc import Sequence

import attrs

# Tokens of a text that are read at once, and those of its first chunk. Powers of two: few shapes to compile.
MOST_TOKENS, FIRST_TOKENS, LEAST_TOKENS = 256, 64, 8
# Seconds that a chunk may take: every step of those who generate beside the text waits for one.
CHUNK_SECONDS = 0.1


def next_chunk_tokens(tokens: int, seconds: float) -> int:
    """Size of the next chunk of a text, after one of so many tokens has taken so many seconds: its attention grows with what is read already."""
    if seconds > CHUNK_SECONDS:
        return max(LEAST_TOKENS, tokens // 2)
    return min(MOST_TOKENS, 2 * tokens) if seconds < CHUNK_SECONDS / 4 else tokens


class Pooling(enum.StrEnum):
    """Which tokens' vectors make that of their text."""

    MEAN = "mean"  # all of them
    LAST = "last"
    FIRST = "first"


@attrs.frozen
class EmbeddingForm:
    """Way in which a model embeds: a property of the model, not of a request."""

    pooling: Pooling = Pooling.MEAN
    is_approximate: bool = True  # the model was made to generate, and its vectors tell what texts have in common only more or less


APPROXIMATE = EmbeddingForm()
# Tokens by which a text may differ from its own spelling: one that was cut in the middle of a word differs at that end. Of pieces of English, code,
# German and Japanese that were cut anywhere none differed by more; of 64 tokens of another tokenizer 92 to 100 % do (SmolLM2's vocabulary).
MOST_UNUSUAL = 4


def is_foreign(given: Sequence[int], own: Sequence[int]) -> bool:
    """True if tokens were made by another tokenizer: `own` are those that the model's tokenizer makes of their text."""
    start = _common(given, own)
    end = _common(given[start:][::-1], own[start:][::-1])
    return len(given) - start - end > MOST_UNUSUAL


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
