"""Embeddings: texts as vectors, several read at once.

Knows how the vectors of tokens become one, and which tokens cannot be the model's own. Knows no
arrays.
"""

import enum
from collections.abc import Sequence

import attrs

# Texts that are read together. Of 512 tokens each, more would not make a device faster.
MOST_TEXTS = 16
# Part of its longest text that each text of a batch has at least: shorter ones are padded, and
# padding is computed.
LEAST_FILLED = 0.5
# Tokens of each text that are read at once; and, of all texts of a batch together, those of the
# first chunk and of the smallest one.
MOST_TOKENS, FIRST_TOKENS, LEAST_TOKENS = 256, 64, 8
# Seconds that a chunk may take: every step of those who generate beside the texts waits for one.
CHUNK_SECONDS = 0.1
# Part of the memory that is left which the keys and values of a batch may take.
MEMORY_SHARE = 0.25


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the places of texts of these lengths in batches, each of texts of similar lengths."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        last = found[-1] if found else []
        if last and len(last) < MOST_TEXTS and lengths[place] >= LEAST_FILLED * lengths[last[0]]:
            last.append(place)
        else:
            found.append([place])
    return found


def most_texts(text_bytes: int, free_bytes: int | None) -> int:
    """Return how many texts may be read together whose keys and values take `text_bytes` each; at
    least one.

    None: memory is not known.
    """
    if free_bytes is None or not text_bytes:
        return MOST_TEXTS
    return max(1, min(MOST_TEXTS, int(free_bytes * MEMORY_SHARE) // text_bytes))


def first_chunk_tokens(texts: int) -> int:
    """Return the tokens of each of so many texts that are read first."""
    return max(FIRST_TOKENS // texts, 1)


def next_chunk_tokens(tokens: int, seconds: float, texts: int = 1) -> int:
    """Return the tokens of each text in the next chunk, after one of so many tokens has taken so
    many seconds.

    Its attention grows with what is read already.
    """
    if seconds > CHUNK_SECONDS:
        return max(LEAST_TOKENS // texts, 1, tokens // 2)
    return min(MOST_TOKENS, 2 * tokens) if seconds < CHUNK_SECONDS / 4 else tokens


class Pooling(enum.StrEnum):
    """The tokens whose vectors make the vector of their text."""

    MEAN = "mean"  # all of them
    LAST = "last"
    FIRST = "first"


@attrs.frozen
class EmbeddingForm:
    """Way in which a model embeds: a property of the model, not of a request."""

    pooling: Pooling = Pooling.MEAN
    # the model was made to generate, and its vectors tell what texts have in common only more or
    # less
    is_approximate: bool = True
    # texts that the model expects before a query and before what is searched
    query_prompt: str = ""
    document_prompt: str = ""


APPROXIMATE = EmbeddingForm()
# Tokens by which a text may differ from its own spelling: one that was cut in the middle of a word
# differs at that end. Of pieces of English, code, German and Japanese that were cut anywhere none
# differed by more; of 64 tokens of another tokenizer 92 to 100 % do (SmolLM2's vocabulary).
MOST_UNUSUAL = 4


def is_foreign(given: Sequence[int], own: Sequence[int]) -> bool:
    """True if tokens were made by another tokenizer: `own` are those that the model's tokenizer
    makes of their text.
    """
    start = _common(given, own)
    end = _common(given[start:][::-1], own[start:][::-1])
    return len(given) - start - end > MOST_UNUSUAL


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
