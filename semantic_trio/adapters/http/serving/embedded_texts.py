"""Texts on their way to vectors: which models make them, and how long a text may be.

Knows no wire format.
"""

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.errors import InvalidRequestError, PromptTooLongError


def vector_size(model: ServedModel) -> int:
    """Return the numbers of a vector.

    Raises `InvalidRequestError` for a model without vectors.
    """
    if model.adapter is not None:
        raise InvalidRequestError(
            f"vectors are made by a model without an adapter, not by {model.card.id}",
            "model",
            quotes=False,
        )
    if not model.engine.runner.embedding_size:
        raise InvalidRequestError(
            f"{model.card.id} cannot embed texts: its architecture gives no vectors",
            "model",
            quotes=False,
        )
    return model.engine.runner.embedding_size


async def embedded_tokens(
    model: ServedModel, text: str | tuple[int, ...], field: str
) -> tuple[int, ...]:
    """Return the tokens of a text; tokens are returned unchanged.

    Raises `InvalidRequestError`, which names the field, for too many of them.
    """
    limit = min(model.card.context_length, model.engine.memory.longest_row)
    try:
        tokens = await model.encode_text(text)
    except PromptTooLongError as error:
        raise _too_long(limit, error.tokens, field) from error
    if len(tokens) > limit:
        raise _too_long(limit, len(tokens), field)
    return tokens


def _too_long(limit: int, tokens: int, field: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"a text has {limit} tokens at most, not {tokens}", field, quotes=False
    )
