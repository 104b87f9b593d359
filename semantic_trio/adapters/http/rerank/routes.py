"""Routes of the Rerank API: documents in the order of their relevance to a query.

Knows the wire, and that vectors of texts are compared by their cosine. Knows nothing of how a
vector is computed.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Annotated, Literal

import attrs
import msgspec
import trio
from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.compatibility_fields import Refused, refuse_unsupported
from semantic_trio.adapters.http.common.exchange import current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode, parsed
from semantic_trio.adapters.http.common.json_responses import json_response
from semantic_trio.adapters.http.common.openapi import document_faults
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.embedded_texts import embedded_tokens, vector_size
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.errors import InvalidRequestError

# Most documents of one request: as many as texts of an embeddings request.
MOST_DOCUMENTS = 2048

Words = Annotated[str, msgspec.Meta(min_length=1)]


@attrs.frozen
class Document:
    """A document."""

    text: Words


@attrs.frozen
class RerankRequest:
    """A query, and documents to rank."""

    model: str
    query: Words
    documents: Annotated[
        list[Words | Document], msgspec.Meta(min_length=1, max_length=MOST_DOCUMENTS)
    ]
    top_n: Annotated[int, msgspec.Meta(ge=0)] | None = None  # 0: all
    return_documents: bool | None = None
    rank_fields: Refused = None  # Cohere: other fields of documents than their text


@attrs.frozen
class RankedDocument:
    """A document, and how relevant it is."""

    index: int  # among the documents of the request
    relevance_score: float  # -1 to 1: the cosine of the document's vector and the query's
    document: Document | None = None  # null: not asked for


@attrs.frozen
class RerankUsage:
    """The usage of a request."""

    prompt_tokens: int
    total_tokens: int


@attrs.frozen
class RerankAnswer:
    """The documents, the most relevant one first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: RerankUsage
    object: Literal["list"] = "list"


def routes(state: AppState) -> Blueprint:
    """Build the routes `/v1/rerank` and, for Cohere's newer clients, `/v2/rerank`."""
    blueprint = Blueprint("rerank", __name__)

    @blueprint.post("/v1/rerank")
    @blueprint.post("/v2/rerank")
    @document_request(RerankRequest)
    @document_response(RerankAnswer, 200)
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 500, 503)
    async def rerank() -> Response:
        """Rank documents by their relevance to a query."""
        exchange = current.get()
        request = await parsed(exchange.body, functools.partial(decode, kind=RerankRequest))
        refuse_unsupported(request)
        model = await state.resolve(request.model, exchange.stack)
        exchange.model = model.card.id
        _refuse_generator(model)
        documents = [
            one if isinstance(one, Document) else Document(one) for one in request.documents
        ]
        with state.tokenizing():
            prompts = await _prompts(model, request.query, documents)
        with model.engine.at_work():
            query, *vectors = await model.embed(prompts)
        ranked = _ranked(await _cosines(query, vectors))
        results = [
            RankedDocument(
                place, score, None if request.return_documents is False else documents[place]
            )
            for place, score in ranked[: request.top_n or None]
        ]
        tokens = sum(map(len, prompts))
        answer = RerankAnswer(
            f"rerank-{exchange.request_id}", model.card.id, results, RerankUsage(tokens, tokens)
        )
        return json_response(answer)

    return blueprint


def _refuse_generator(model: ServedModel) -> None:
    """Raise `InvalidRequestError` for a model whose vectors do not tell what is relevant."""
    vector_size(model)
    if model.card.embeds.is_approximate:
        raise InvalidRequestError(
            f"{model.card.id} cannot rank documents: it was made to generate, not to embed",
            "model",
            quotes=False,
        )


async def _prompts(
    model: ServedModel, query: str, documents: Sequence[Document]
) -> list[tuple[int, ...]]:
    """Return the tokens of the query and of each document, with what the model expects before
    each.
    """
    form = model.card.embeds
    return [
        await embedded_tokens(model, form.query_prompt + query, "query"),
        *[
            await embedded_tokens(model, form.document_prompt + document.text, f"documents.{place}")
            for place, document in enumerate(documents)
        ],
    ]


async def _cosines(query: Sequence[float], vectors: Sequence[Sequence[float]]) -> list[float]:
    scores = []
    for vector in vectors:
        scores.append(_cosine(query, vector))
        await trio.lowlevel.checkpoint()  # one takes up to 0.2 ms, and there may be thousands
    return scores


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of two vectors of length 1; rounding leaves it within -1 and 1."""
    product: float = sum(map(operator.mul, one, other))
    return max(-1.0, min(1.0, product))


def _ranked(scores: Sequence[float]) -> list[tuple[int, float]]:
    """Return places and scores, the highest score first; equal ones in the order of the request."""
    return sorted(enumerate(scores), key=lambda ranked: -ranked[1])
