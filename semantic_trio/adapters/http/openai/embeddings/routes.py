"""Routes of the Embeddings API: texts as vectors.

Knows the wire. Knows nothing of how a vector is computed.
"""

import base64
import functools
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

import attrs
import msgspec
from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode, parsed
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults
from semantic_trio.adapters.http.openai.common.text_inputs import (
    SEND_TEXT,
    Texts,
    text_inputs_schema,
    texts_of,
)
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.embedded_texts import embedded_tokens, vector_size
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.embedding import is_foreign
from semantic_trio.domain.errors import InvalidRequestError

# Most texts of one request, as in OpenAI's API.
MOST_INPUTS = 2048
LONGEST_CHARACTER_BYTES = 4  # in UTF-8; a token is a byte at least
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@attrs.frozen
class EmbeddingsRequest:
    """Texts to embed, or their tokens."""

    model: str
    input: Annotated[msgspec.Raw, text_inputs_schema(MOST_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


@attrs.frozen
class Embedding:
    """The vector of one text, of length 1."""

    embedding: list[float] | str  # numbers, or base64 of little-endian float32
    index: int
    object: Literal["embedding"] = "embedding"


@attrs.frozen
class EmbeddingsUsage:
    """The usage of a request."""

    prompt_tokens: int
    total_tokens: int


@attrs.frozen
class EmbeddingsAnswer:
    """The vectors, in the order of the texts."""

    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
    object: Literal["list"] = "list"


def routes(state: AppState) -> Blueprint:
    """Build the route `/v1/embeddings`."""
    blueprint = Blueprint("embeddings", __name__)

    @blueprint.post("/v1/embeddings")
    @document_request(EmbeddingsRequest)
    @document_response(EmbeddingsAnswer, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 500, 503)
    async def create_embeddings() -> Response:
        """Embed texts."""
        exchange = current.get()
        request = await parsed(exchange.body, functools.partial(decode, kind=EmbeddingsRequest))
        model = await state.resolve(request.model, exchange.stack)
        exchange.model = model.card.id
        size = _size(model, request.dimensions)
        texts = texts_of(request.input, MOST_INPUTS, model.card.vocabulary, "input")
        with state.tokenizing():
            prompts = [await _tokens(model, text) for text in texts]
        with model.engine.at_work():
            vectors = await model.embed(prompts)
        data = [
            Embedding(_encoded(_truncated(vector, size), request.encoding_format), index)
            for index, vector in enumerate(vectors)
        ]
        tokens = sum(map(len, prompts))
        return json_response(EmbeddingsAnswer(data, model.card.id, EmbeddingsUsage(tokens, tokens)))

    return blueprint


def _size(model: ServedModel, dimensions: int | None) -> int:
    """Return the size of the vectors.

    Raises `InvalidRequestError` for a model without vectors, or with smaller ones.
    """
    size = vector_size(model)
    if dimensions is not None and dimensions > size:
        raise InvalidRequestError(
            f"{model.card.id} makes vectors of {size} numbers", "dimensions", quotes=False
        )
    return dimensions or size


async def _tokens(model: ServedModel, text: Texts) -> tuple[int, ...]:
    """Return the tokens of a text.

    Raises `InvalidRequestError` for too many tokens, and for tokens of another tokenizer.
    """
    tokens = await embedded_tokens(model, text, "input")
    if not isinstance(text, str):
        await _refuse_foreign(model, tokens)
    return tokens


async def _refuse_foreign(model: ServedModel, tokens: tuple[int, ...]) -> None:
    """Raise `InvalidRequestError` for tokens of another tokenizer: their vector would be that of
    another text.
    """
    whole = _without_cut_characters(model, tokens)
    text = model.codec.decode(whole)
    if text and is_foreign(whole, await model.encode_text(text)):
        raise InvalidRequestError(
            f"{model.card.id} would not write this text in these tokens; {SEND_TEXT}",
            "input",
            quotes=False,
        )


def _without_cut_characters(model: ServedModel, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Return tokens without those at either end that are a part of a character."""
    for _ in range(LONGEST_CHARACTER_BYTES - 1):
        tokens = tokens[
            model.codec.decode(tokens[:LONGEST_CHARACTER_BYTES]).startswith(UNREADABLE) :
        ]
        is_cut = model.codec.decode(tokens[-LONGEST_CHARACTER_BYTES:]).endswith(UNREADABLE)
        tokens = tokens[: len(tokens) - is_cut]
    return tokens


def _truncated(vector: Sequence[float], size: int) -> Sequence[float]:
    """Return the front of a vector, scaled to length 1."""
    if size == len(vector):
        return vector
    length = sum(number * number for number in vector[:size]) ** 0.5
    return [number / (length or 1.0) for number in vector[:size]]


def _encoded(vector: Sequence[float], encoding: str | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return list(vector)
