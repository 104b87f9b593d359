"""Texts to continue or to embed, as text or as tokens.

Knows the wire and the size of a vocabulary. Knows nothing of what is done with the texts.
"""

from typing import Annotated

import msgspec

from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.domain.errors import InvalidRequestError

# Four bytes hold any id.
LARGEST_TOKEN = 2**31 - 1

# Advice to clients that tokenise for a model of OpenAI's, as LangChain's embeddings do by default.
SEND_TEXT = (
    "they look like another model's: send the text itself (LangChain: "
    "OpenAIEmbeddings(check_embedding_ctx_length=False))"
)

Token = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_TOKEN)]
Words = Annotated[str, msgspec.Meta(min_length=1)]
Tokens = Annotated[list[Token], msgspec.Meta(min_length=1)]
Texts = str | tuple[int, ...]  # a text, or its tokens


def text_inputs_schema(most: int) -> msgspec.Meta:
    """Document raw JSON that `texts_of` reads: a text, tokens, or a list of either, but no mixture
    of texts and single tokens.
    """
    text, token = (
        {"type": "string", "minLength": 1},
        {"type": "integer", "minimum": 0, "maximum": LARGEST_TOKEN},
    )
    tokens = {"type": "array", "items": token, "minItems": 1}
    either = {"type": "array", "items": {"anyOf": [text, tokens]}, "minItems": 1, "maxItems": most}
    return msgspec.Meta(extra_json_schema={"anyOf": [text, tokens, either]})


def texts_of(raw: msgspec.Raw, most: int, vocabulary: int, field: str) -> list[Texts]:
    """Return the texts or tokens; ids have to be below `vocabulary`, unless that is 0.

    Raises `Fault` and `InvalidRequestError`.
    """
    given = decode(raw, Words | list[Words | Tokens | Token], field)  # type: ignore[arg-type] # a union of types is one too
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    if tokens and len(tokens) == len(given):
        return [_checked_tokens(tokens, vocabulary, field)]
    if tokens or not 1 <= len(given) <= most:
        raise InvalidRequestError(f"a text, tokens, or 1 to {most} of either", field, quotes=False)
    return [
        _checked_tokens(item, vocabulary, field) if isinstance(item, list) else item
        for item in given
    ]


def _checked_tokens(tokens: list[int], vocabulary: int, field: str) -> tuple[int, ...]:
    if vocabulary and max(tokens) >= vocabulary:
        raise InvalidRequestError(
            (
                f"the model's tokens are ids below {vocabulary}, and {max(tokens)} is none; "
                f"{SEND_TEXT}"
            ),
            field,
            quotes=False,
        )
    return tuple(tokens)
